"""Finds the images and videos of an example by the key names that data sets use.

`image`, `images`, `video` and `videos` have precedence; synonyms are read if those have no value. A
key that is not read, although its value looks like a medium, is always reported: an example without
another medium is refused; otherwise the key is counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from owl_jax.data.sources.media_detection import (
    SUFFIX,
    holds_media,
    is_media_name,
    looks_like_media,
)
from owl_jax.data.sources.media_values import images_from, is_remote, videos_from
from owl_jax.data.sources.record import Medium, Video
from owl_jax.errors import BadData, listed, printable, shown

_MAIN_KEYS = {"image": ("image", "images"), "video": ("video", "videos")}
# In lower case, without underscores and hyphens: "imagePath" and "image_path" are the same.
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
# Keys of any file; the suffix decides its kind. Hugging Face's image folders use file_name.
_ANY_FILE = frozenset(
    {"filename", "filenames", "file", "files", "path", "paths", "filepath", "filepaths", "media"}
)

# Ids of media stored elsewhere: COCO's image_id, GQA's imageId, MSVD-QA's video_id.
_MEDIA_ID = re.compile(r"(?:image|img|photo|picture|video|vid|clip|coco|flickr)(?:ids?|key|uid)")


class FoundMedia(NamedTuple):
    """The media of an example, and the keys of media that are not read."""

    images: list[Medium]
    videos: list[Video]
    unread: list[str]


def find_media(
    values: Mapping[str, Any], where: str, media_root: Path, text_keys: Set[str] = frozenset()
) -> FoundMedia:
    """The media of an example outside its `text_keys`.

    Raises BadData, naming `where`, for a value that is not a medium and for two keys with different
    media.
    """
    kinds = {
        key: media_kind(key, value)
        for key, value in values.items()
        if key not in text_keys and _has_value(value)
    }
    media: dict[str, list[Any]] = {}
    read: set[str] = set()
    for kind, convert in (("image", images_from), ("video", videos_from)):
        keys = [key for key in _MAIN_KEYS[kind] if key in kinds]
        others = [key for key, found in kinds.items() if found == kind and key not in keys]
        if not keys:
            keys = others[:1]
        differ = [
            key
            for key in others
            if key not in keys
            and not _is_origin(values, keys, key)
            and not _names_same_media(values, keys, key)
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
        # A key that names the file that bytes came from counts as read; one with another file
        # does not.
        read |= {
            *keys,
            *(
                key
                for key in others
                if _names_same_media(values, keys, key)
                or not all(isinstance(values[other], str) for other in keys)
            ),
        }
    unread = [key for key in kinds if key not in read and looks_like_media(values[key], str(key))]
    return FoundMedia(media["image"], media["video"], unread)


def media_kind(key: object, value: Any) -> str | None:
    """The kind that a key names: "image", "video" or None; keys of any file go by the value."""
    if not isinstance(key, str):
        return None
    name = _plain(key)
    for kind, synonyms in _SYNONYMS.items():
        if name in synonyms or name in _MAIN_KEYS[kind]:
            return kind
    if name in _ANY_FILE or name.endswith("filename"):  # "left_file_name" is Hugging Face's too
        return _kind_by_suffix(value)
    return None


def may_hold_media(key: str) -> bool:
    """Whether media are read from a key or column of this name."""
    name = _plain(key)
    return media_kind(key, None) is not None or name in _ANY_FILE or name.endswith("filename")


def check_unread(
    found: FoundMedia,
    values: Mapping[str, Any],
    where: str,
    text_keys: Set[str] = frozenset(),
    free_text_keys: Set[str] = frozenset(),
) -> None:
    """Raises BadData for an example without media if it has unread media, or names or ids of media.

    free_text_keys: those of `text_keys` whose value may look like a file name: answers, ids.
    """
    if found.images or found.videos:
        return
    unread = found.unread or [
        key
        for key in values
        if key in text_keys
        and (
            holds_media(values[key], text_keys)
            or (key not in free_text_keys and is_media_name(values[key]))
        )
    ]
    if unread:
        raise _unread(unread, values[unread[0]], where)
    has_key = any(media_kind(key, None) for key in values)
    ids = [] if has_key else [key for key in values if _is_media_id(key, values[key])]
    if ids:
        raise BadData(
            "unread medium",
            f"{where}: {_quoted(ids)} is {shown(values[ids[0]])}, but no key has its file; write "
            'the file to "image" or "video", or remove the key',
        )


def _unread(keys: Sequence[str], value: Any, where: str) -> BadData:
    if isinstance(value, str) and is_remote(value):
        return BadData(
            "remote medium",
            f'{where}: "{printable(str(keys[0]))}" is {shown(value)}; nothing is fetched '
            'during training. Download the files and give their paths in "image" or "video"',
        )
    return BadData(
        "unread medium",
        f"{where}: {_quoted(keys)} looks like a picture or video ({shown(value)}) but is "
        'not read; rename the key to "image" or "video", or remove it',
    )


def _is_media_id(key: object, value: Any) -> bool:
    is_id = isinstance(value, str | int) and not isinstance(value, bool) and value not in ("", -1)
    return is_id and isinstance(key, str) and bool(_MEDIA_ID.fullmatch(_plain(key)))


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
    """Whether `other` only names the origin of what `keys` hold: the file that bytes came from."""
    if not isinstance(values[other], str) or values[other].startswith("data:"):
        return False
    is_general = _plain(other) in _ANY_FILE or _plain(other).endswith("filename")
    return is_general or not any(isinstance(values[key], str) for key in keys)


def _names_same_media(values: Mapping[str, Any], keys: Sequence[str], other: str) -> bool:
    """Whether `other` names the same media as `keys`; paths may differ in leading folders."""
    names = [name for key in keys for name in _names(values[key])]
    other_names = _names(values[other])
    return len(names) == len(other_names) and all(
        f"/{a}".endswith(f"/{b}") or f"/{b}".endswith(f"/{a}")
        for a, b in zip(names, other_names, strict=True)
    )


def _names(value: Any) -> list[str]:
    """A string for each medium: the path of its file, or its value."""
    items = value if isinstance(value, list | tuple) else [value]
    return [str(item).replace("\\", "/").removeprefix("./") for item in items]


def _plain(key: str) -> str:
    return re.sub(r"[_\-. :/]", "", key).lower()


def _quoted(keys: Sequence[str]) -> str:
    return listed((f'"{key}"' for key in keys), 4)
