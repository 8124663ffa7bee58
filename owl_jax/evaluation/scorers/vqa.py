"""VQA accuracy: arXiv 1505.00468, github.com/GT-Vision-Lab/VQA (vqaEvaluation/vqaEval.py).

Ten people answered each question. An answer's accuracy is the mean, over the ten ways to leave one
person out, of min(1, matches among the other nine / 3).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(value) for value, word in enumerate(_NUMBERS)}}
_ARTICLES = {"a", "an", "the"}
_MARKS = ';/[]"{}()=+\\_-><@`,?!'

# Contractions that get back one missing apostrophe.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""
_APOSTROPHES = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}  # as in the official table

# The official pattern is a misspelt look-behind: it takes each period without a digit after it.
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
# re.UNICODE was passed as the number of replacements.
_MOST_PERIODS = int(re.UNICODE)
_COMMA = re.compile(r"\d,\d")
_COMMAS = re.compile(r"(?<=\d),+(?=\d)")


def accuracy(answer: str, references: Sequence[str]) -> float:
    """The official accuracy, 0 to 1.

    Answer and references are normalised only if the references differ: "Yes" does not match ten
    "yes".
    """
    answer, references = on_one_line(answer), [on_one_line(text) for text in references]
    if len(set(references)) > 1:
        answer, references = normalised(answer), [normalised(text) for text in references]
    return leave_one_out(answer, references)


def owl2_accuracy(answer: str, references: Sequence[str]) -> float:
    """mPLUG-Owl2's evaluation: the references keep their number words, articles and case."""
    answer, references = normalised(on_one_line(answer)), list(references)
    if len(set(references)) > 1:
        references = [without_marks(text, _COMMA) for text in references]
    return leave_one_out(answer, references)


def lmms_eval_accuracy(answer: str, references: Sequence[str]) -> float:
    """lmms-eval's: both sides are always normalised."""
    texts = [normalised(on_one_line(text), _COMMAS) for text in (answer, *references)]
    return leave_one_out(texts[0], texts[1:])


def submission(answer: str) -> str:
    """What LLaVA and Owl2 send to the test server in the place of an answer."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalised(on_one_line(text), _COMMAS)


def leave_one_out(answer: str, references: Sequence[str]) -> float:
    """The mean over the references left out; the texts are compared as they are."""
    matches = [text == answer for text in references]
    shares = [min(1.0, (sum(matches) - match) / 3) for match in matches]
    return sum(shares) / len(shares) if shares else 0.0


def normalised(text: str, comma: re.Pattern[str] = _COMMA) -> str:
    """A text without marks and articles, in lower case, with digits and with apostrophes."""
    words = (_DIGITS.get(word, word) for word in without_marks(text, comma).lower().split())
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def without_marks(text: str, comma: re.Pattern[str] = _COMMA) -> str:
    """A text without punctuation: a mark goes if one like it is beside a space, or if the text has
    a comma between digits; otherwise it becomes a space."""
    found = text
    has_comma = comma.search(text) is not None
    for mark in _MARKS:
        goes = has_comma or f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if goes else " ")
    return _PERIOD.sub("", found, count=_MOST_PERIODS)


def on_one_line(text: str) -> str:
    """A text whose line breaks and tabs are spaces, without spaces at its ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()
