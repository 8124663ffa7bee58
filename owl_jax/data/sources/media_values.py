"""The forms in which a record's pictures and videos are stored, as Media. Nothing is decoded.

A medium is a path relative to the media root (or absolute), the bytes of a file, {"bytes", "path"}
as Hugging Face's features store it, a uint8 array, a PIL picture, or a part of a file.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from owl_jax.data.sources.record import FilePart, Medium, Video
from owl_jax.errors import BadData, UserError, shown
from owl_jax.files import as_typed

_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.\-]*://", re.IGNORECASE)

# What base64 of JPEG, PNG, GIF, WebP, BMP, TIFF, and of ISO media files begins with.
_BASE64_HEADS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk0", "SUkqA", "TU0AK", "AAAA")
_SHORTEST_BASE64 = 64
_LONGEST_PATH = 4096  # of Linux, in bytes


def images_from(value: Any, where: str, media_root: Path) -> list[Medium]:
    """The pictures of one medium, a list of them, or an array uint8[N, H, W, 3] of N.

    None, "" and a list of nothing else are no picture. Raises BadData, naming `where`, for anything
    else.
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
    if isinstance(value, list | tuple):
        return all(map(_is_nothing, value))
    return value is None or (isinstance(value, str) and not value.strip())


def _items(value: Any, dimensions: int) -> Sequence[Any]:
    """What a list or an array of so many dimensions holds; anything else is one thing itself."""
    if isinstance(value, np.ndarray):
        is_list = value.dtype == object or value.ndim == dimensions
    else:
        is_list = isinstance(value, list | tuple)
    return list(value) if is_list else [value]


def is_remote(text: str) -> bool:
    """Whether a text is the address of something elsewhere: "https://...", "s3://..."."""
    return _ADDRESS.match(text) is not None


def is_base64_medium(text: str) -> bool:
    """Whether a text is the base64 of a picture or a video, without the "data:" before it."""
    head = text[:_SHORTEST_BASE64]
    # The name of a file has a dot.
    return len(head) == _SHORTEST_BASE64 and head.startswith(_BASE64_HEADS) and "." not in text


def _medium(value: Any, where: str, media_root: Path) -> Medium:
    if isinstance(value, bytes | FilePart | Image.Image):
        return value
    if isinstance(value, str):
        return _from_text(value.strip(), value, where, media_root)
    if isinstance(value, os.PathLike) and _can_be_opened(value):
        return media_root / value
    if isinstance(value, Mapping):
        for key in ("bytes", "path", "url", "data"):
            if value.get(key) is not None:
                return _medium(value[key], where, media_root)
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        shape = value.shape
        if value.ndim == 3 and shape[2] == 1:  # as TensorFlow Datasets has grey pictures
            value = value[:, :, 0]
        if value.size and (value.ndim == 2 or (value.ndim == 3 and shape[2] == 3)):
            return Image.fromarray(value)
    raise _no_medium(value, where)


def _from_text(text: str, path: str, where: str, media_root: Path) -> Medium:
    if text.startswith("data:"):
        return _from_data_url(text, where)
    if is_base64_medium(text):
        return _decode(text, where, "base64")
    if text[:5].lower() == "file:":
        try:
            return media_root / as_typed(text)
        except UserError as error:
            raise BadData("not a medium", f"{where}: {error}") from None
    if is_remote(text):
        raise BadData(
            "remote medium",
            f"{where}: {shown(text)} is an address; nothing is fetched while training. Download "
            "the file and give its path",
        )
    if len(path) > _LONGEST_PATH or not _can_be_opened(path):
        raise _no_medium(path, where)
    return media_root / path


def _no_medium(value: Any, where: str) -> BadData:
    return BadData(
        "not a medium",
        f"{where}: {_describe(value)} is no picture or video; expected a path, the bytes of a "
        "file, base64 of them, or an array uint8[H, W, 3]",
    )


def _from_data_url(url: str, where: str) -> bytes:
    """The bytes of "data:image/png;base64,...", as OpenAI's messages hold pictures."""
    head, _, data = url.partition(",")
    if not head.endswith(";base64"):
        raise BadData("not a medium", f"{where}: a data URL cannot be read (not base64)")
    return _decode(data, where, "a data URL")


def _decode(data: str, where: str, what: str) -> bytes:
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadData("not a medium", f"{where}: {what} cannot be read ({error})") from None


def _can_be_opened(path: str | os.PathLike) -> bool:
    """False for a path that no file can have: empty, with a zero byte, or half a character."""
    try:
        return bool(encoded := os.fsencode(path)) and b"\0" not in encoded
    except UnicodeEncodeError:
        return False


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype}{list(value.shape)}"
    return shown(value)
