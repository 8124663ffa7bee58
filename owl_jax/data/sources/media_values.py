"""The forms in which a record's pictures and videos are stored, as Media. Nothing is decoded.

A medium is a path relative to the media root (or absolute), the bytes of a file, {"bytes", "path"}
as Hugging Face's features store it, a uint8 array, a PIL picture, or a part of a file.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from owl_jax.data.sources.record import FilePart, Medium, Video
from owl_jax.errors import BadData


def images_from(value: Any, where: str, media_root: Path) -> list[Medium]:
    """The pictures of one medium, a list of them, or an array uint8[N, H, W, 3] of N.

    None and "" are no picture. Raises BadData, naming `where`, for anything else.
    """
    if _is_nothing(value):
        return []
    return [_medium(item, where, media_root) for item in _items(value, dimensions=4)]


def videos_from(value: Any, where: str, media_root: Path) -> list[Video]:
    """The videos of one file or folder, or a list of them.

    A list inside the list or an array uint8[T, H, W, 3] is one video of these frames, a picture is
    one of one frame, None and "" are no video. Raises BadData, naming `where`, for anything else.
    """
    if _is_nothing(value):
        return []
    videos: list[Video] = []
    for item in _items(value, dimensions=5):
        if isinstance(item, list | tuple | np.ndarray):
            videos.append(images_from(item, where, media_root))
        else:
            medium = _medium(item, where, media_root)
            videos.append([medium] if isinstance(medium, Image.Image) else medium)
    return videos


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _items(value: Any, dimensions: int) -> Sequence[Any]:
    """What a list or an array of so many dimensions holds; anything else is one thing itself."""
    if isinstance(value, np.ndarray):
        is_list = value.dtype == object or value.ndim == dimensions
    else:
        is_list = isinstance(value, list | tuple)
    return list(value) if is_list else [value]


def _medium(value: Any, where: str, media_root: Path) -> Medium:
    if isinstance(value, bytes | FilePart | Image.Image):
        return value
    if isinstance(value, str) and value.startswith("data:"):
        return _from_data_url(value, where)
    if isinstance(value, str | os.PathLike) and _can_be_opened(value):
        return media_root / value
    if isinstance(value, Mapping):
        for key in ("bytes", "path"):
            if value.get(key) is not None:
                return _medium(value[key], where, media_root)
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        shape = value.shape
        if value.ndim == 3 and shape[2] == 1:  # as TensorFlow Datasets has grey pictures
            value = value[:, :, 0]
        if value.size and (value.ndim == 2 or (value.ndim == 3 and shape[2] == 3)):
            return Image.fromarray(value)
    raise BadData(
        "not a medium",
        f"{where}: {_describe(value)} is no picture or video; expected a path, the bytes of a "
        "file, or an array uint8[H, W, 3]",
    )


def _from_data_url(url: str, where: str) -> bytes:
    """The bytes of "data:image/png;base64,...", as OpenAI's messages hold pictures."""
    head, _, data = url.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("not base64")
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadData("not a medium", f"{where}: a data URL cannot be read ({error})") from None


def _can_be_opened(path: str | os.PathLike) -> bool:
    """False for a path that no file can have: empty, with a zero byte, or half a character."""
    try:
        return bool(encoded := os.fsencode(path)) and b"\0" not in encoded
    except UnicodeEncodeError:
        return False


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype}{list(value.shape)}"
    text = " ".join(ascii(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."
