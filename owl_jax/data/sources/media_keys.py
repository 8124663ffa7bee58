"""Which keys of an example hold its pictures and videos, by the names that data sets give them.

`image`, `images`, `video` and `videos` are ours; the others are read where those have no value. A
key that is not read although its value looks like a medium is never passed over in silence: an
example without any medium is refused for it, and in one with media it is counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from owl_jax.data.sources.media_look import (
    SUFFIX,
    is_only_a_name,
    lies_in_words,
    looks_like_media,
)
from owl_jax.data.sources.media_values import images_from, is_remote, videos_from
from owl_jax.data.sources.record import Medium, Video
from owl_jax.errors import BadData, listed, printable, shown

_OURS = {"image": ("image", "images"), "video": ("video", "videos")}
# Names without their underscores and hyphens, in lower case: "imagePath" and "image_path" are one.
_SYNONYMS = {
    "image": frozenset(
        """
        img imgs imagepath imagepaths imagefile imagefiles imagefilename imagefilenames
        imagefilepath imagename imageurl imageurls imgpath imgpaths imgfile imgname imgurl
        imagelist imagelocal localimage localimagepath picture pictures picturepath
        photo photos photopath jpg jpeg png webp
        """.split()  # noqa: SIM905
    ),
    "video": frozenset(
        """
        videopath videopaths videofile videofiles videofilename videofilenames videofilepath
        videoname videourl videourls videolist clip clips clippath vid vidpath mp4 webm
        """.split()  # noqa: SIM905
    ),
}
# Names of any file: what it is, its suffix tells. Hugging Face's image folders say file_name.
_ANY_FILE = frozenset(
    {"filename", "filenames", "file", "files", "path", "paths", "filepath", "filepaths", "media"}
)

# Names of what is kept elsewhere: COCO's image_id, GQA's imageId, MSVD-QA's video_id.
_ELSEWHERE = re.compile(r"(?:image|img|photo|picture|video|vid|clip|coco|flickr)(?:ids?|key|uid)")


class FoundMedia(NamedTuple):
    """The media of an example, and the keys with media that are not read."""

    images: list[Medium]
    videos: list[Video]
    unread: list[str]


def find_media(
    values: Mapping[str, Any], where: str, media_root: Path, text_keys: Set[str] = frozenset()
) -> FoundMedia:
    """What an example holds beside its text, which is in `text_keys`.

    Raises BadData, naming `where`, for a value that is no medium, and where two keys name
    different media.
    """
    kinds = {
        key: media_kind(key, value)
        for key, value in values.items()
        if key not in text_keys and _has_value(value)
    }
    media: dict[str, list[Any]] = {}
    read: set[str] = set()
    for kind, convert in (("image", images_from), ("video", videos_from)):
        keys = [key for key in _OURS[kind] if key in kinds]
        others = [key for key, found in kinds.items() if found == kind and key not in keys]
        if not keys:
            keys = others[:1]
        differ = [
            key
            for key in others
            if key not in keys
            and not _is_origin(values, keys, key)
            and not _name_the_same(values, keys, key)
        ]
        if differ:
            raise BadData(
                "two media keys",
                f"{where}: {_quoted(keys)} and {_quoted(differ)} hold different media; keep one "
                f'of them, or write all in "{kind}s"',
            )
        media[kind] = []
        for key in keys:
            media[kind] += convert(values[key], where, media_root)
        # What tells where bytes came from is read with them; another file is not.
        read |= {
            *keys,
            *(
                key
                for key in others
                if _name_the_same(values, keys, key)
                or not all(isinstance(values[other], str) for other in keys)
            ),
        }
    unread = [key for key in kinds if key not in read and looks_like_media(values[key], str(key))]
    return FoundMedia(media["image"], media["video"], unread)


def media_kind(key: object, value: Any) -> str | None:
    """What a key says that it holds: "image", "video" or nothing."""
    if not isinstance(key, str):
        return None
    name = _plain(key)
    for kind, synonyms in _SYNONYMS.items():
        if name in synonyms or name in _OURS[kind]:
            return kind
    if name in _ANY_FILE or name.endswith("filename"):  # "left_file_name" is Hugging Face's too
        return _kind_by_suffix(value)
    return None


def may_hold_media(key: str) -> bool:
    """Whether a key or column has a name under which media are read."""
    name = _plain(key)
    return media_kind(key, None) is not None or name in _ANY_FILE or name.endswith("filename")


def check_unread(
    found: FoundMedia,
    values: Mapping[str, Any],
    where: str,
    text_keys: Set[str] = frozenset(),
    said: Set[str] = frozenset(),
) -> None:
    """Raises BadData for an example without media that holds or names some which are not read.

    said: of `text_keys`, those whose words may be the name of a file: answers, and ids.
    """
    if found.images or found.videos:
        return
    unread = found.unread or [
        key
        for key in values
        if key in text_keys
        and (
            lies_in_words(values[key], text_keys)
            or (key not in said and is_only_a_name(values[key]))
        )
    ]
    if unread:
        raise _unread(unread, values[unread[0]], where)
    has_key = any(media_kind(key, None) for key in values)
    elsewhere = [] if has_key else [key for key in values if _is_elsewhere(key, values[key])]
    if elsewhere:
        raise BadData(
            "unread medium",
            f"{where}: {_quoted(elsewhere)} is {shown(values[elsewhere[0]])}, whose file is not "
            'named; write it to "image" or "video", or leave the key out',
        )


def _unread(keys: Sequence[str], value: Any, where: str) -> BadData:
    if isinstance(value, str) and is_remote(value):
        return BadData(
            "remote medium",
            f'{where}: "{printable(str(keys[0]))}" is {shown(value)}; nothing is fetched while '
            'training. Download the files and name them in "image" or "video"',
        )
    return BadData(
        "unread medium",
        f"{where}: {_quoted(keys)} looks like a picture or video ({shown(value)}) and is "
        'not read; rename the key to "image" or "video", or leave it out',
    )


def _is_elsewhere(key: object, value: Any) -> bool:
    is_id = isinstance(value, str | int) and not isinstance(value, bool) and value not in ("", -1)
    return is_id and isinstance(key, str) and bool(_ELSEWHERE.fullmatch(_plain(key)))


def _kind_by_suffix(value: Any) -> str | None:
    first = value[0] if isinstance(value, list | tuple) and value else value
    if not isinstance(first, str | Path):
        return None
    match = SUFFIX.search(str(first))
    if match is None or not (match[1] or match[2]):
        return None
    return "image" if match[1] else "video"


def _has_value(value: Any) -> bool:
    if value is None or (isinstance(value, str) and not value.strip()):
        return False
    return not (isinstance(value, list | tuple) and all(item is None for item in value))


def _is_origin(values: Mapping[str, Any], keys: Sequence[str], other: str) -> bool:
    """Whether `other` tells where the media in `keys` came from: a name beside bytes, or any name
    under a key that says nothing of pictures."""
    if not isinstance(values[other], str) or values[other].startswith("data:"):
        return False
    is_general = _plain(other) in _ANY_FILE or _plain(other).endswith("filename")
    return is_general or not any(isinstance(values[key], str) for key in keys)


def _name_the_same(values: Mapping[str, Any], keys: Sequence[str], other: str) -> bool:
    """Whether `other` holds what `keys` hold together, paths with more or fewer folders."""
    ours = [name for key in keys for name in _names(values[key])]
    theirs = _names(values[other])
    return len(ours) == len(theirs) and all(
        f"/{a}".endswith(f"/{b}") or f"/{b}".endswith(f"/{a}")
        for a, b in zip(ours, theirs, strict=True)
    )


def _names(value: Any) -> list[str]:
    """What tells one medium from another: the path of its file, or what it is."""
    items = value if isinstance(value, list | tuple) else [value]
    return [str(item).replace("\\", "/").removeprefix("./") for item in items]


def _plain(key: str) -> str:
    return re.sub(r"[_\-. :/]", "", key).lower()


def _quoted(keys: Sequence[str]) -> str:
    return listed((f'"{key}"' for key in keys), 4)
