"""What looks like a picture or a video though no key says that it is one.

What looks like a medium and is not read is told (sources/media_keys.py); nothing is read for its
looks alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from owl_jax.data.sources.media_suffixes import (
    IMAGE_SUFFIXES,
    UNREAD_SUFFIXES,
    VIDEO_SUFFIXES,
)
from owl_jax.data.sources.media_values import is_base64_medium
from owl_jax.data.sources.record import FilePart

_READ = rf"({'|'.join(IMAGE_SUFFIXES)})|({'|'.join(VIDEO_SUFFIXES)})"
SUFFIX = re.compile(rf"\.(?:{_READ}|{'|'.join(UNREAD_SUFFIXES)})(?:[?#].*)?$", re.IGNORECASE)
# A text that is JSON, or a list as Python prints it, with such a name in it.
_NAME_IN_JSON = re.compile(
    rf"\.(?:{_READ}|{'|'.join(UNREAD_SUFFIXES)})\\?[\"']|data:(?:image|video)/", re.IGNORECASE
)
_LONGEST_PATH = 1024  # characters; what is longer is a text that ends like a file's name
_LONGEST_JSON = 1 << 16
_PICTURE_NAME = re.compile("ima?ge?|pict?|photo|video|frame|scan|clip|media|screen", re.IGNORECASE)
# Keys of a turn, and of a part of one, that hold words.
_SPOKEN = frozenset({"from", "role", "speaker", "value", "content", "text", "type"})
_SMALLEST_SIDE = 8  # of a list of numbers that is a picture; corners of boxes are fewer


def looks_like_media(value: Any, key: str = "") -> bool:
    """Whether a value would be a picture or video if it were asked for as one.

    key: the name it has; a sentence that ends like a file's name is one under "photograph".
    """
    if isinstance(value, str):
        return _is_name_of_one(value.strip(), key)
    if isinstance(value, Path):
        return bool(SUFFIX.search(value.name))
    if isinstance(value, FilePart | Image.Image):
        return True
    if isinstance(value, bytes | bytearray | memoryview):
        return is_medium_bytes(bytes(value[:16]))
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return any(map(looks_like_media, value))
        return value.dtype.kind in "uifb" and _is_picture_shape(value.shape)
    if isinstance(value, Mapping):
        return any(looks_like_media(item, str(name)) for name, item in value.items())
    if isinstance(value, Sequence):
        return _is_pixel_list(value) or any(looks_like_media(item, key) for item in value)
    return False


def lies_in_words(value: Any, word_keys: Set[str]) -> bool:
    """Whether what holds words (turns, pairs, one text) holds a medium beside or instead of them.

    word_keys: of objects in it, whose texts are words and may speak of files.
    """
    if isinstance(value, Mapping):
        return any(
            lies_in_words(item, word_keys)
            if key in _SPOKEN or key in word_keys
            else looks_like_media(item, str(key))
            for key, item in value.items()
        )
    if isinstance(value, list | tuple | np.ndarray):
        return any(
            lies_in_words(item, word_keys) for item in value if not isinstance(item, str | bytes)
        )
    return not isinstance(value, str) and looks_like_media(value)


def is_only_a_name(words: Any) -> bool:
    """Whether what should be words is the name of a picture or video, or the medium itself."""
    if isinstance(words, str):
        return not re.search(r"\s", words.strip()) and looks_like_media(words)
    return isinstance(words, bytes) and looks_like_media(words)


def is_medium_bytes(data: bytes) -> bool:
    """Whether bytes begin as a picture or a video does."""
    return _MEDIUM_HEAD.match(data[:16]) is not None


# JPEG, PNG, GIF, RIFF (WebP, AVI), TIFF, BMP, ISO media (AVIF, HEIC, MP4), JPEG 2000, Matroska.
_MEDIUM_HEAD = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF....(?:WEBP|AVI )|II\*\0|MM\0\*|BM....\0\0\0\0|....ftyp|"
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51|\x1aE\xdf\xa3",
    re.DOTALL,
)


def _is_name_of_one(text: str, key: str) -> bool:
    if text.startswith(("data:image/", "data:video/")) or is_base64_medium(text):
        return True
    if text[:1] in ("[", "{") and len(text) <= _LONGEST_JSON:
        return bool(_NAME_IN_JSON.search(text))
    if len(text) > _LONGEST_PATH or "\n" in text or not SUFFIX.search(text):
        return False
    # "The dog from dog.jpg" is a sentence; "my pictures/a dog.jpg" is a path.
    is_path = " " not in text or "/" in text or "\\" in text or text.count(" ") < 3
    return is_path or bool(_PICTURE_NAME.search(key))


def _is_picture_shape(shape: Sequence[int]) -> bool:
    """Whether an array of this shape may be a picture, or several, whatever its numbers are."""
    if len(shape) < 3:
        return False
    first, middle, last = shape[-3:]
    return any(
        channels in (1, 3, 4) and min(height, width) >= _SMALLEST_SIDE
        for height, width, channels in ((first, middle, last), (middle, last, first))
    )


def _is_pixel_list(value: Sequence[Any]) -> bool:
    """The same for lists of lists of lists of numbers, of which only the first are looked at."""
    sides = []
    while isinstance(value, list | tuple) and value:
        sides.append(len(value))
        value = value[0]
    return isinstance(value, Number) and _is_picture_shape(sides)
