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

import numpy as np
from PIL import Image

from owl_jax.data.sources.media_suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from owl_jax.data.sources.media_values import (
    images_from,
    is_base64_medium,
    is_remote,
    videos_from,
)
from owl_jax.data.sources.record import FilePart, Medium, Video
from owl_jax.errors import BadData, listed, shown

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

_SUFFIX = re.compile(
    rf"\.(?:({'|'.join(IMAGE_SUFFIXES)})|({'|'.join(VIDEO_SUFFIXES)}))(?:[?#].*)?$", re.IGNORECASE
)
_LONGEST_PATH = 1024  # characters; what is longer is a text that ends like a file's name


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
            and _names(values[key]) != [name for other in keys for name in _names(values[other])]
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
        read |= {*keys, *others}
    unread = [key for key in kinds if key not in read and looks_like_media(values[key])]
    return FoundMedia(media["image"], media["video"], unread)


def media_kind(key: object, value: Any) -> str | None:
    """What a key says that it holds: "image", "video" or nothing."""
    if not isinstance(key, str):
        return None
    for kind, ours in _OURS.items():
        if key in ours:
            return kind
    name = _plain(key)
    for kind, synonyms in _SYNONYMS.items():
        if name in synonyms:
            return kind
    if name in _ANY_FILE or name.endswith("filename"):  # "left_file_name" is Hugging Face's too
        return _kind_by_suffix(value)
    return None


def may_hold_media(key: str) -> bool:
    """Whether a key or column has a name under which media are read."""
    name = _plain(key)
    return key in ("image", "images", "video", "videos") or (
        name in _SYNONYMS["image"] | _SYNONYMS["video"] | _ANY_FILE or name.endswith("filename")
    )


def check_unread(found: FoundMedia, values: Mapping[str, Any], where: str) -> None:
    """Raises BadData for an example without media whose other keys look like some."""
    if found.images or found.videos or not found.unread:
        return
    key = found.unread[0]
    value = values[key]
    if isinstance(value, str) and is_remote(value):
        raise BadData(
            "remote medium",
            f'{where}: "{key}" is {shown(value)}; nothing is fetched while training. Download '
            'the files and name them in "image" or "video"',
        )
    raise BadData(
        "unread medium",
        f"{where}: {_quoted(found.unread)} looks like a picture or video ({shown(value)}) and is "
        'not read; rename the key to "image" or "video", or leave it out',
    )


def looks_like_media(value: Any) -> bool:
    """Whether a value would be a picture or video if it were asked for as one."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith(("data:image/", "data:video/")) or is_base64_medium(text):
            return True
        if len(text) > _LONGEST_PATH or "\n" in text or not _SUFFIX.search(text):
            return False
        # "The dog from dog.jpg" is a sentence; "my pictures/a dog.jpg" is a path.
        return " " not in text or "/" in text or text.count(" ") < 3
    if isinstance(value, Path):
        return bool(_SUFFIX.search(value.name))
    if isinstance(value, FilePart | Image.Image):
        return True
    if isinstance(value, bytes):
        return is_medium_bytes(value)
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim >= 3
    if isinstance(value, Mapping):
        return any(map(looks_like_media, value.values()))
    if isinstance(value, Sequence):
        return bool(value) and looks_like_media(value[0])
    return False


def is_medium_bytes(data: bytes) -> bool:
    """Whether bytes begin as a picture or a video does."""
    return _MEDIUM_HEAD.match(data[:16]) is not None


# JPEG, PNG, GIF, RIFF (WebP, AVI), TIFF, BMP, ISO media (AVIF, HEIC, MP4), JPEG 2000, Matroska.
_MEDIUM_HEAD = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF....(?:WEBP|AVI )|II\*\0|MM\0\*|BM....\0\0\0\0|....ftyp|"
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51|\x1aE\xdf\xa3",
    re.DOTALL,
)


def _kind_by_suffix(value: Any) -> str | None:
    first = value[0] if isinstance(value, list | tuple) and value else value
    if not isinstance(first, str | Path):
        return None
    match = _SUFFIX.search(str(first))
    return None if match is None else "image" if match[1] else "video"


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


def _names(value: Any) -> list[str]:
    """What tells one medium from another: the name of its file, or what it is."""
    items = value if isinstance(value, list | tuple) else [value]
    return [str(item).rpartition("/")[2] for item in items]


def _plain(key: str) -> str:
    return re.sub(r"[_\-. ]", "", key).lower()


def _quoted(keys: Sequence[str]) -> str:
    return listed((f'"{key}"' for key in keys), 4)
