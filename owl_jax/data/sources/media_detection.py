"""Recognises images and videos that are stored under an unknown key.

Such values are reported (sources/media_keys.py), never read.
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

_READABLE = rf"({'|'.join(IMAGE_SUFFIXES)})|({'|'.join(VIDEO_SUFFIXES)})"
SUFFIX = re.compile(rf"\.(?:{_READABLE}|{'|'.join(UNREAD_SUFFIXES)})(?:[?#].*)?$", re.IGNORECASE)
# A media file name in text that is JSON or a printed Python list.
_NAME_IN_JSON = re.compile(
    rf"\.(?:{_READABLE}|{'|'.join(UNREAD_SUFFIXES)})\\?[\"']|data:(?:image|video)/",
    re.IGNORECASE,
)
_LONGEST_PATH = 1024  # characters; a longer text is not a path, even if it ends like one
_LONGEST_JSON = 1 << 16
_PICTURE_NAME = re.compile("ima?ge?|pict?|photo|video|frame|scan|clip|media|screen", re.IGNORECASE)
# Keys of a turn or a content part that hold text.
_TURN_KEYS = frozenset({"from", "role", "speaker", "value", "content", "text", "type"})
_SMALLEST_SIDE = 8  # pixels; a smaller array may hold bounding boxes


def looks_like_media(value: Any, key: str = "") -> bool:
    """Whether a value looks like an image or video.

    key: the key of the value. Under a key such as "photograph", even a sentence counts if it ends
      with a file name.
    """
    if isinstance(value, str):
        return _is_medium_text(value.strip(), key)
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


def holds_media(value: Any, text_keys: Set[str]) -> bool:
    """Whether a value that should be text (turns, pairs or a string) contains an image or a video.

    text_keys: the keys, at any depth, whose values are text. Text may mention files.
    """
    if isinstance(value, Mapping):
        return any(
            holds_media(item, text_keys)
            if key in _TURN_KEYS or key in text_keys
            else looks_like_media(item, str(key))
            for key, item in value.items()
        )
    if isinstance(value, list | tuple | np.ndarray):
        return any(
            holds_media(item, text_keys) for item in value if not isinstance(item, str | bytes)
        )
    return not isinstance(value, str) and looks_like_media(value)


def is_media_name(value: Any) -> bool:
    """Whether a value is just the file name of an image or video, or its encoded content."""
    if isinstance(value, str):
        return not re.search(r"\s", value.strip()) and looks_like_media(value)
    return isinstance(value, bytes) and looks_like_media(value)


def is_medium_bytes(data: bytes) -> bool:
    """Whether bytes begin like an image or a video file."""
    return _MEDIUM_HEAD.match(data[:16]) is not None


# JPEG, PNG, GIF, RIFF (WebP, AVI), TIFF, BMP, ISO media (AVIF, HEIC, MP4), JPEG 2000, Matroska.
_MEDIUM_HEAD = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF....(?:WEBP|AVI )|II\*\0|MM\0\*|BM....\0\0\0\0|....ftyp|"
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51|\x1aE\xdf\xa3",
    re.DOTALL,
)


def _is_medium_text(text: str, key: str) -> bool:
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
    """Whether an array of this shape may be one or more images."""
    if len(shape) < 3:
        return False
    first, middle, last = shape[-3:]
    return any(
        channels in (1, 3, 4) and min(height, width) >= _SMALLEST_SIDE
        for height, width, channels in ((first, middle, last), (middle, last, first))
    )


def _is_pixel_list(value: Sequence[Any]) -> bool:
    """Whether nested lists of numbers may be images; checks the first item of each level only."""
    sides = []
    while isinstance(value, list | tuple) and value:
        sides.append(len(value))
        value = value[0]
    return isinstance(value, Number) and _is_picture_shape(sides)
