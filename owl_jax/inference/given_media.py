"""Reads pictures and videos in every form that callers pass, beside messages or inside them.

Letters: N images, M videos, T frames, S side of the square.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image

from owl_jax.data.sources.media_detection import looks_like_media
from owl_jax.data.sources.media_values import is_base64_medium
from owl_jax.errors import UserError, listed, one_line, shown
from owl_jax.inference.typed_paths import exists, local_path
from owl_jax.media.image import ImageSource, load_image
from owl_jax.media.resizing import SQUASH, Resizing
from owl_jax.media.video import load_video
from owl_jax.text.conversation import IMAGE_TOKEN, VIDEO_TOKEN, count_media

# With more frames, one video would take hundreds of megabytes.
MOST_FRAMES = 1024

# The kind of medium of each part type, in OpenAI's two interfaces and in transformers.
_MEDIA_TYPES = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "video": "video",
    "video_url": "video",
    "input_video": "video",
}
_TEXT_TYPES = ("input_text", "output_text")

# Keys under which a part, or a mapping given as a picture, holds a file, its bytes or its path.
_SOURCE_KEYS = (
    *("image", "image_url", "video", "video_url", "url", "uri", "src", "source", "path", "file"),
    *("image_path", "video_path", "file_path", "bytes", "base64", "data", "file_id"),
)
_DEEPEST = 8  # levels of nested mappings
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def listed_pictures(images: Any) -> list[Any]:
    """`images` as a list: one picture is a list of one, an array [N, H, W, 3] holds N.

    Raises UserError for anything that is neither a picture nor an ordered collection.
    """
    if images is None:
        return []
    if _is_array(images):
        array = _as_array(images, "images")
        return list(array) if array.ndim in (1, 4) else [array]
    return [images] if _is_one(images) else _in_order(images, "images")


def listed_clips(videos: Any) -> list[Any]:
    """`videos` as a list of videos.

    An array [M, T, H, W, 3] holds M videos. An array [T, H, W, 3], or a list of PIL images or of
    arrays [H, W, 3], is one video.

    Raises UserError for anything that is neither a video nor an ordered collection.
    """
    if videos is None:
        return []
    if _is_array(videos):
        array = _as_array(videos, "videos")
        return list(array) if array.ndim in (1, 5) else [array]
    if _is_one(videos):
        return [videos]
    clips = _in_order(videos, "videos")
    are_frames = [isinstance(clip, Image.Image) or _is_array(clip, 2, 3) for clip in clips]
    return [clips] if clips and all(are_frames) else clips


def open_picture(source: Any) -> Image.Image:
    """The picture upright and in RGB. Raises UserError, naming the source, if it is not one."""
    return load_image(_openable(source, "a picture"))


def open_clip(source: Any, num_frames: int, size: int, resizing: Resizing = SQUASH) -> np.ndarray:
    """T = num_frames frames uint8[T, S, S, 3]. Raises UserError if `source` is not a video."""
    if _is_array(source):
        array = _as_array(source, "a video")
        if array.ndim != 4:
            raise UserError(
                f"a video is {array.dtype}{list(array.shape)}; expected uint8[frames, height, "
                "width, 3]"
            )
        source = list(array)
    if _is_one(source):
        opened: Any = _openable(source, "a video")
        source = _read(opened) if hasattr(opened, "read") else opened
    elif isinstance(source, Iterable):
        source = [_openable(frame, "a frame") for frame in _in_order(source, "a video")]
    return load_video(source, num_frames, size, resizing=resizing)


def take_out(messages: Any, images: Any, videos: Any) -> tuple[Any, list[Any], list[Any]]:
    """Moves media out of messages: returns the messages with empty media parts, the images and the
    videos, in the order of their marks.

    A part that holds a picture or video keeps its own; the other marks take `images` and `videos`
    in order. Parts of OpenAI's other interface (input_text, input_image) become plain ones. All
    other checks of messages are left to prompt_from_messages.

    Raises UserError if `images` or `videos` do not match the other marks, and for a part that holds
    something unusable.
    """
    given = {"image": listed_pictures(images), "video": listed_clips(videos)}
    if not isinstance(messages, list | tuple):
        return messages, given["image"], given["video"]
    # An entry per mark, in reading order: (medium,) if its part holds one, or None.
    found: dict[str, list[tuple[Any] | None]] = {"image": [], "video": []}
    plain = []
    for number, message in enumerate(messages, start=1):
        if isinstance(message, Mapping):
            message = _with_own_media(message, f"message {number}")
        content = message.get("content") if isinstance(message, Mapping) else None
        is_user = isinstance(message, Mapping) and message.get("role") == "user"
        if is_user and isinstance(content, str):
            _count(content, found)
        elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
            where = f"message {number}"
            parts = [_plain_part(part, found if is_user else None, where) for part in content]
            message = {**message, "content": parts}
        plain.append(message)
    pictures, clips = (_in_place(kind, found[kind], given[kind]) for kind in ("image", "video"))
    return plain, pictures, clips


def _with_own_media(message: Mapping[Any, Any], where: str) -> Mapping[Any, Any]:
    """Turns media beside a message's content, {"content": "What?", "image": "a.png"}, into parts.

    Raises UserError for media under keys that are not read, and for media beside anything but plain
    text of the user.
    """
    beside = {key: message[key] for key in message if key not in ("role", "content")}
    read: list[dict[str, Any]] = []
    for key in ("image", "images", "video", "videos"):
        kind, given = key.removesuffix("s"), beside.pop(key, None)
        items = listed_pictures(given) if kind == "image" else listed_clips(given)
        read += [{"type": kind, kind: item} for item in items]
    _refuse_others(beside, where)
    if not read:
        return message
    content = message.get("content")
    if message.get("role") != "user" or not isinstance(content, str) or any(count_media(content)):
        raise UserError(
            f"{where} holds {listed(key for key in message if key != 'role')}; expected media "
            "beside plain text of the user, or inside parts, or in images= and videos= with marks"
        )
    return {"role": "user", "content": [*read, {"type": "text", "text": content}]}


def _refuse_others(beside: Mapping[Any, Any], where: str) -> None:
    """Raises UserError if a key that is not read holds a picture or video."""
    for key, value in beside.items():
        if looks_like_media(value, str(key)):
            raise UserError(
                f"{where} holds {shown(value)} under {shown(key)}, which is not read; expected "
                '{"type": "image", "image": ...} in its content'
            )


def _plain_part(part: Any, found: dict[str, list[tuple[Any] | None]] | None, where: str) -> Any:
    """Appends a part's medium to `found`, and returns the part without it.

    found: None for a message that is not the user's.
    """
    if not isinstance(part, Mapping):
        return part
    kind = part.get("type")
    if not isinstance(kind, str):
        return part
    if kind in _TEXT_TYPES:
        part, kind = {**part, "type": "text"}, "text"
    if kind == "text":
        _refuse_others({key: part[key] for key in part if key != "text"}, f"{where}: a part")
    if kind == "text" and isinstance(part.get("text"), str) and found is not None:
        _count(part["text"], found)
    if kind not in _MEDIA_TYPES or found is None:
        return part
    noun = _MEDIA_TYPES[kind]
    found[noun].append(_held(part, f"{where}: a part of type {kind}"))
    return {"type": noun}


def _count(text: str, found: dict[str, list[tuple[Any] | None]]) -> None:
    for kind, marks in zip(("image", "video"), count_media(text), strict=True):
        found[kind] += [None] * marks


def _in_place(kind: str, found: list[tuple[Any] | None], given: list[Any]) -> list[Any]:
    """The media of one kind in reading order."""
    inside = sum(held is not None for held in found)
    if not inside:
        return given  # check_media compares them with the marks
    marks = len(found) - inside
    if marks != len(given):
        mark = IMAGE_TOKEN if kind == "image" else VIDEO_TOKEN
        raise UserError(
            f"the conversation has {inside} part(s) with their own {kind}, {marks} {mark} mark(s) "
            f"or empty part(s), and {len(given)} {kind}(s) in {kind}s=; expected one in {kind}s= "
            "for each mark or empty part, in the same order, and none for the other parts"
        )
    rest = iter(given)
    return [next(rest) if held is None else held[0] for held in found]


def _held(part: Mapping[Any, Any], what: str, depth: int = 0) -> tuple[Any] | None:
    """(medium,) that a part, or a mapping given as a medium, holds; None if it is empty."""
    if depth > _DEEPEST:
        raise UserError(
            f"{what} holds mappings nested too deeply; expected a path, data or a picture"
        )
    filled = {key: part[key] for key in _SOURCE_KEYS if part.get(key) is not None}
    if "bytes" in filled and "path" in filled:  # Hugging Face datasets: the path is only a name
        del filled["path"]
    if not filled:
        return None
    if len(filled) > 1:
        raise UserError(f"{what} holds {' and '.join(filled)}; expected one of them")
    ((key, value),) = filled.items()
    if key == "file_id":
        raise UserError(f"{what} names a file_id, which only its server knows; give a path")
    if isinstance(value, Mapping):
        # {"image_url": {"url": ...}}; {"source": {"type": "base64", "data": ...}}
        inner = _held(value, what, depth + 1)
        if inner is None:
            raise UserError(f"{what} holds an empty {key}; expected a path, data or a picture")
        return inner
    if key in ("base64", "data") and isinstance(value, str) and not value.startswith("data:"):
        return (_from_base64(value, what),)
    return (value,)


def _openable(source: Any, what: str) -> ImageSource:
    """Converts a source to a form that load_image and load_video take."""
    if isinstance(source, Mapping):
        held = _held(source, what)
        if held is None:
            keys = ", ".join(shown(key, 20) for key in list(source)[:4])
            raise UserError(f"{what} is a dict with {keys or 'no keys'}; expected a path or bytes")
        source = held[0]
    if _is_array(source):
        return _picture_of(_as_array(source, what), what)
    if isinstance(source, str):
        return _of_text(source, what)
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if isinstance(source, os.PathLike):
        return Path(os.fsdecode(source))
    if isinstance(source, io.TextIOBase):
        raise UserError(f'{what} is a file opened as text; open it with open(path, "rb")')
    opened: ImageSource = source
    return opened


def _of_text(text: str, what: str) -> str | bytes:
    """A path, or the bytes of base64 or a data URL. Raises UserError for other URLs."""
    if not text.strip():
        raise UserError(f"{what} is an empty text; expected a path")
    if is_base64_medium(text.strip()) and not exists(text):
        return _from_base64(text, what)
    if not exists(text):
        text = text.lstrip()
    if text[:5].lower() == "data:":
        header, comma, body = text.partition(",")
        if not comma:
            raise UserError(f"{what} is {shown(text)}; expected data:image/png;base64,...")
        if header.lower().endswith(";base64"):
            return _from_base64(unquote_to_bytes(body).decode("latin-1"), what)
        return unquote_to_bytes(body)
    found = _URL.match(text)
    if found and found[1].lower() != "file" and not exists(text):
        raise UserError(
            f"{what} is {shown(text)}: nothing is fetched from the network; download it and give "
            "its path"
        )
    return local_path(text)


def _from_base64(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{what} holds damaged base64 ({one_line(error)})") from error
    if not data:
        raise UserError(f"{what} holds no data; expected the bytes of a file in base64")
    return data


def _picture_of(array: np.ndarray, what: str) -> Image.Image:
    channels = array.shape[2:] if array.ndim == 3 else (1,)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels[0] not in (1, 3, 4):
        raise UserError(
            f"{what} is {array.dtype}{list(array.shape)}; expected uint8[height, width, 3], 0 to "
            "255, or grey uint8[height, width]"
        )
    if not array.size:
        raise UserError(f"{what} is {list(array.shape)} and has no pixels")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and channels[0] == 1 else array)


def _is_array(value: Any, *ndim: int) -> bool:
    """Whether `value` is an array of NumPy, JAX or another library, of `ndim` axes if given."""
    if isinstance(value, Image.Image | str | bytes) or not hasattr(value, "__array__"):
        return False
    return not ndim or np.ndim(value) in ndim


def _as_array(value: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(value)
    # PyTorch refuses to convert tensors that need a gradient or are on a GPU.
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{what} is not an array: {one_line(error)}") from error


def _is_one(value: Any) -> bool:
    """Whether `value`, which is not an array, is one picture or video, not a collection."""
    one = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, Mapping)
    return isinstance(value, one) or hasattr(value, "read")


def _in_order(value: Any, what: str) -> list[Any]:
    if not isinstance(value, Iterable) or isinstance(value, set | frozenset):
        raise UserError(
            f"{what} is {shown(value)}; expected a path, bytes, an open file, a PIL image, an "
            "array, or a list of these"
        )
    return list(value)


def _read(file: Any) -> bytes:
    """Reads an open binary file from its start. Raises UserError if it cannot be read."""
    try:
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)  # as Pillow does
        data = file.read()
    except (OSError, ValueError) as error:
        raise UserError(f"a video cannot be read ({one_line(error)})") from error
    if not isinstance(data, bytes):
        raise UserError(f"a video's read() gave {type(data).__name__}; expected bytes")
    return data
