"""mentions_place: finds texts that may be false for a mirrored, cropped or rotated image."""

import re
from string import ascii_lowercase

# Single English words, in lower case. "right" also means "correct", and 左右 "about": if in doubt,
# do not mirror.
_SIDES = tuple(
    place + side + ending
    for place in ("", "top", "bottom", "upper", "lower")
    for side in ("left", "right")
    for ending in (
        *("", "most", "ward", "wards", "side", "foot", "footed"),
        *("hand", "handed", "handedness", "hander", "handers"),
    )
)
_MORE_SIDES = (
    *("lefty", "lefties", "righty", "righties", "southpaw", "southpaws"),
    *("starboard", "larboard", "portside"),
    *("clockwise", "counterclockwise", "anticlockwise"),
)
# Mirroring does not swap north and south.
_COMPASS = tuple(
    half + point + ending
    for half in ("", "north", "south")
    for point in ("east", "west")
    for ending in (
        *("", "ern", "erner", "erners", "erly", "most", "ernmost"),
        *("ward", "wards", "bound", "side"),
    )
)
# Omits "word", "letter", "read" and "say", which are common in prompts ("answer in one word");
# see _PHRASES.
_WRITTEN = (
    *("text", "texts", "textual", "ocr", "written", "writing", "handwriting", "handwritten"),
    *("says", "saying", "reads", "spells", "spelled", "spelt", "titled", "title", "captioned"),
    *("letters", "lettering", "lettered", "alphabet", "digits", "numerals", "numbered", "initials"),
    *("label", "labels", "labeled", "labelled", "logo", "logos", "brand", "brands", "slogan"),
    *("inscription", "inscribed", "engraved", "signage", "watermark", "headline", "subtitles"),
    *("font", "fonts", "calligraphy", "typography", "transcribe", "transcription", "legible"),
)
_PLACED = ("bbox", "bboxes", "bounding", "coordinate", "coordinates")
_WORDS = frozenset(word.encode() for word in _SIDES + _MORE_SIDES + _COMPASS + _WRITTEN + _PLACED)
_NO_LETTERS_TO_BLANKS = bytes(i if chr(i) in ascii_lowercase else ord(" ") for i in range(256))

# Each alternative begins with a literal, not a class or a group: re can then skip to where a match
# may begin, which is ten times faster. None begins with "the", which is too frequent. The same
# holds for _CHINESE.
_PHRASES = re.compile(
    "|".join(
        (
            *(r"port[\s-]side", r"clock-wise"),
            *(r"o['’\s]?clock", r"half\spast", r"quarter\s(?:past|to)\s"),
            *(r"hour\shand", r"minute\shand"),
            *(r"what\s(?:letter|word|number)", r"which\s(?:letter|word|number)"),
            *(r"letter(?<=the\sletter)", r"word(?<=the\sword)"),
            *(r"number\s(?:on\s|plate|\d)", r"licen[cs]e\splate"),
            r"d(?:o|oes|id)\s(?:\S+\s){1,6}(?:say|read|spell)(?![a-z])",
            r"</?(?:box|bbox|quad|poly|point|loc)",
            *('"', "“", "„", "「", "『"),  # a quotation may be text in the image
        )
    )
)
# Coordinates of boxes and points, as in (12, 30), [[0.1, 0.2, 0.5, 1]] or {<12><30><50><60>}.
# A run of numbers without a closing bracket is skipped as a whole: retrying at each of its "<"
# would take quadratic time.
_NUMBER = r"-?+\d++(?:\.\d++)?+%?+"
_NEXT_NUMBER = rf"[\s,，;<>]++{_NUMBER}"
_NUMBERS = re.compile(
    rf"[\[(（<]\s*+{_NUMBER}(?:(?:{_NEXT_NUMBER})+?\s*+(?P<end>[\])）>])|(?:{_NEXT_NUMBER})*+)"
)
_CLOCK = re.compile(r"\d(?:[:：]\d\d(?!\d)|\s?[ap]\.?m(?![a-z])|\s?[点點时時])")

# 东西 is mostly "thing". 西 begins names (西班牙, Spain), food (西瓜, watermelon), clothes (西装).
_CHINESE = re.compile(
    "|".join(
        (
            *("左", "右", "时针", "時針", "分针", "分針"),
            *(
                before + "(?:[东東](?![西京莞])|西(?![瓜班红紅兰蘭装裝服式餐葡药藥]))"
                for before in "向往朝由自从從靠偏以正坐"
            ),
            *(point + "(?<![东東]西)[边邊侧側面方端岸部北南]" for point in "东東西"),
            *(east + "西(?:走?向|[两兩][边邊侧側端岸]|南北)" for east in "东東"),
            "字(?<![名十金]字)",  # not 名字 (name), 十字 (cross), 金字塔 (pyramid)
            *(verb + "[着著了有的]" for verb in "写寫印"),
            *("标题", "標題", "标语", "標語", "单词", "單詞", "文本"),
            *("车牌", "車牌", "商标", "商標", "品牌"),
            *(hour + "(?:[钟鐘半整]|[一三]刻|[零一二三四五六七八九十]+分)" for hour in "点點"),
            *("几点[了?？]", "幾點[了?？]"),
            *("坐标", "坐標", "座标", "座標", "边界框", "邊界框"),
        )
    )
)


def mentions_place(text: str) -> bool:
    """Whether a text may be false once its image is mirrored or cropped.

    Detected in English and Chinese: left and right, senses of rotation, port and starboard, east
    and west; words about text in the image, and quotations, because mirrored letters cannot be
    read; clock times (3:15, at three o'clock). Detected in all languages: coordinates of boxes and
    points, in brackets or after a mark like <box>. Not detected: letters in the image that the text
    does not mention.

    For such a text, pass keep_places=True to the image's augmentation. False positives are
    accepted: "all right", "he left", "he says" and the citation [1, 2].
    """
    lower = text.lower()
    words = lower.encode("ascii", "replace").translate(_NO_LETTERS_TO_BLANKS).split()
    if not _WORDS.isdisjoint(words):
        return True
    if any(found["end"] for found in _NUMBERS.finditer(text)):
        return True
    if _PHRASES.search(lower) or _CLOCK.search(lower):
        return True
    return not text.isascii() and _CHINESE.search(text) is not None
