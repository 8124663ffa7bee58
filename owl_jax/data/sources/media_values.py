"""Converts the values of media keys to media, without decoding them.

A medium is a path (relative to the media root, or absolute), the bytes of a file, {"bytes", "path"}
as Hugging Face's features store it, a uint8 array, a PIL image, or a FilePart.
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

# First characters of base64 of JPEG, PNG, GIF, WebP, BMP, TIFF, and ISO media files.
_BASE64_HEADS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk0", "SUkqA", "TU0AK", "AAAA")
_SHORTEST_BASE64 = 64
_LONGEST_PATH = 4096  # Linux's limit, in bytes


def images_from(value: Any, where: str, media_root: Path) -> list[Medium]:
    """The images in a value: one medium, a list of media, or an array uint8[N, H, W, 3].

    None, "" and lists of these give no image. Raises BadData, naming `where`, for anything else.
    """
    if _is_nothing(value):
        return []
    return [_medium(item, where, media_root) for item in _items(value, dimensions=4)]


def videos_from(value: Any, where: str, media_root: Path) -> list[Video]:
    """The videos in a value: one file or folder, or a list of them.

    A nested list or an array uint8[T, H, W, 3] is one video with these frames; an image is a video
    of one frame; None and "" give no video. Raises BadData, naming `where`, for anything else.
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
    """The items of a list, or of an array of this many dimensions; anything else is one item."""
    if isinstance(value, np.ndarray):
        is_list = value.dtype == object or value.ndim == dimensions
    else:
        is_list = isinstance(value, list | tuple)
    return list(value) if is_list else [value]


def is_remote(text: str) -> bool:
    """Whether a text is a URL of remote data: "https://...", "s3://..."."""
    return _ADDRESS.match(text) is not None


def is_base64_medium(text: str) -> bool:
    """Whether a text is the base64 of an image or a video, without a "data:" prefix."""
    head = text[:_SHORTEST_BASE64]
    # File names have a dot.
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
        if value.ndim == 3 and shape[2] == 1:  # grey images of TensorFlow Datasets
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
            f"{where}: {shown(text)} is an address; nothing is fetched during training. Download "
            "the file and give its path",
        )
    if len(path) > _LONGEST_PATH or not _can_be_opened(path):
        raise _no_medium(path, where)
    return media_root / path


def _no_medium(value: Any, where: str) -> BadData:
    return BadData(
        "not a medium",
        f"{where}: {_describe(value)} is not a picture or video; expected a path, the bytes of a "
        "file, base64 of them, or an array uint8[H, W, 3]",
    )


def _from_data_url(url: str, where: str) -> bytes:
    """The bytes of "data:image/png;base64,...", as in OpenAI's messages."""
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
    """False for a path that cannot exist: empty, with a zero byte, or with a lone surrogate."""
    try:
        return bool(encoded := os.fsencode(path)) and b"\0" not in encoded
    except UnicodeEncodeError:
        return False


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype}{list(value.shape)}"
    return shown(value)
