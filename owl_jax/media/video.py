"""Loads a few frames of a video for the model.

A video is a file that FFmpeg reads (media/container.py), an animated GIF (or WebP, PNG, AVIF), the
bytes of either, a folder of frames, or a list of images. Frames are chosen by index, as in the
original, and processed like images (media/image.py): each is resized to the square. A single image
is a video of identical frames.

A video that cannot be used raises BadData with one of these reasons: missing file, unreadable file,
not a video, unsupported format (HEIC and the like), damaged video (corrupt or truncated), video
without frames; for frames in image files, those of an image.

Letters: T frames, S side of the square.
"""

import bisect
import re
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from owl_jax.errors import BadData
from owl_jax.files import is_directory, open_regular
from owl_jax.media.container import is_jpeg_stream, opens, read_by_seeking, read_in_order
from owl_jax.media.image import (
    ImageSource,
    Part,
    Unusual,
    describe_failure,
    is_part,
    load_image,
    name_source,
    preprocess_image,
    read_image,
    read_part,
    to_rgb,
)
from owl_jax.media.resizing import SQUASH, Resizing
from owl_jax.media.signatures import HEAD, identify, is_avif

FRAME_SUFFIXES = (
    ".apng",
    ".avif",
    ".avifs",
    ".bmp",
    ".gif",
    ".j2k",
    ".jfif",
    ".jp2",
    ".jpe",
    ".jpeg",
    ".jpf",
    ".jpg",
    ".jpx",
    ".mpo",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)

# Signatures of image files that are never a stream for FFmpeg.
_PICTURES = (b"GIF8", b"\x89PNG", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")

VideoSource = str | Path | bytes | Part | Sequence[ImageSource]

# Seconds; None: from the beginning, to the end.
Interval = tuple[float | None, float | None]

FOLDER_RATE = 3.0  # frames a second of a folder: as MVBench's are (arXiv 2311.17005)


def frame_indices(num_frames_in_file: int, num_frames: int) -> list[int]:
    """Indices of the T = num_frames frames to use; a short video repeats frames.

    Source: get_index of the original's video package, with NumPy's rounding (half to even).
    Raises ValueError if either number is below 1.
    """
    if num_frames_in_file < 1 or num_frames < 1:
        raise ValueError(f"{num_frames} of {num_frames_in_file} frames; expected at least 1 of 1")
    segment = (num_frames_in_file - 1) / num_frames
    return [int(segment / 2) + int(np.round(segment * i)) for i in range(num_frames)]


def interval_indices(times: Sequence[float], num_frames: int, interval: Interval) -> list[int]:
    """Indices of the T = num_frames frames to use of those within an interval.

    times: of the frames in a file, in seconds, ascending. If the interval has no frame, the nearest
    one is repeated.
    """
    start, end = interval
    first = 0 if start is None else bisect.bisect_left(times, start)
    last = len(times) if end is None else bisect.bisect_right(times, end)
    first = min(first, len(times) - 1)
    return [first + i for i in frame_indices(max(last - first, 1), num_frames)]


def load_video(
    source: VideoSource,
    num_frames: int,
    size: int,
    where: str | None = None,
    *,
    unusual: Unusual = "convert",
    resizing: Resizing = SQUASH,
    interval: Interval = (None, None),
) -> np.ndarray:
    """Frames of a video, uint8[T, S, S, 3]; arguments and errors as in load_frames."""
    frames = load_frames(source, num_frames, where, unusual=unusual, interval=interval)
    return np.stack([preprocess_image(frame, size, resizing) for frame in frames])


def load_frames(
    source: VideoSource,
    num_frames: int,
    where: str | None = None,
    *,
    unusual: Unusual = "convert",
    shrink_to: int | None = None,
    interval: Interval = (None, None),
) -> list[Image.Image]:
    """T = num_frames upright RGB images of a video file, its bytes, a folder, a Part or a list.

    The files of a folder are sorted naturally (frame2 before frame10); hidden files and files
    without an image suffix are ignored. Only the chosen frames are loaded.

    Args:
      where: "data.jsonl:12", a prefix of the file's name in messages.
      unusual: as in load_image, for frames; an animation is not unusual.
      shrink_to: as in load_image, for frames in JPEG files.
      interval: the part of a video file, a folder or a list that is used; a folder and a list have
        FOLDER_RATE frames a second. Animations are used whole.

    Raises BadData (reasons: the module's docstring) with the file's name.
    """
    name = name_source(source, where, "video")
    given: Any = read_part(source, where) if is_part(source) else source
    is_file = isinstance(given, str | Path)
    if is_file and is_directory(given):
        with describe_failure(name, "video"):
            given = frame_files(Path(given))
    elif is_file or isinstance(given, bytes):
        with describe_failure(name, "video"):
            head = given[:HEAD] if isinstance(given, bytes) else _read_head(Path(given))
        if _is_animation(given, head):
            return _read_animation(given, num_frames, name, unusual)
        return _read_container(given, head, num_frames, name, interval)
    if not isinstance(given, Sequence):
        raise BadData(
            "not a video",
            f"{name} is {type(given).__name__}; expected a file, its bytes, a folder or a list of "
            "pictures",
        )
    if not given:
        message = f"{name}: no frames; expected pictures ({', '.join(FRAME_SUFFIXES)})"
        raise BadData("video without frames", message)
    return [
        load_image(given[i], name, unusual=unusual, shrink_to=shrink_to)
        for i in interval_indices(
            [index / FOLDER_RATE for index in range(len(given))], num_frames, interval
        )
    ]


def frame_files(folder: Path) -> list[Path]:
    """The frame files in a folder, in natural order. Raises OSError if it is not readable."""
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in FRAME_SUFFIXES and not path.name.startswith(".")
    ]
    return sorted(files, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key with numbers by value and the rest as text: "f2" before "f10"."""
    parts = [
        (int(part), "") if i % 2 else (0, part.lower())
        for i, part in enumerate(re.split("([0-9]+)", name))
    ]
    return parts, name


def _read_head(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(HEAD)


def _is_animation(file: str | Path | bytes, head: bytes) -> bool:
    """Whether Pillow, not FFmpeg, reads a file: an animation or an image.

    FFmpeg does not read all of these animations, and chooses its image readers by file name.
    """
    if head.startswith(b"\xff\xd8"):
        return not is_jpeg_stream(file)
    is_webp = (head[:4], head[8:12]) == (b"RIFF", b"WEBP")
    is_ppm = head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace()
    return is_webp or is_ppm or is_avif(head) or head.startswith(_PICTURES)


def _read_animation(
    file: str | Path | bytes, num_frames: int, name: str, unusual: Unusual
) -> list[Image.Image]:
    def decode(image: Image.Image) -> list[Image.Image]:
        frames = []
        # The other images of an MPO are a camera's previews, depth map or second eye.
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        for index in frame_indices(count, num_frames):
            image.seek(index)
            frames.append(to_rgb(image, unusual, is_frame=True))
        return frames

    with describe_failure(name, "video"):
        if isinstance(file, bytes):
            return read_image(BytesIO(file), decode)
        with open_regular(Path(file)) as opened:
            return read_image(opened, decode)


def _read_container(
    file: str | Path | bytes, head: bytes, num_frames: int, name: str, interval: Interval
) -> list[Image.Image]:
    found = identify(head)
    if found and found.kind == "picture":
        message = f"{name}: {found.name}, not supported; {found.advice}"
        raise BadData("unsupported format", message)
    try:
        choose = partial(interval_indices, num_frames=num_frames, interval=interval)
        frames = read_by_seeking(file, choose) or read_in_order(file, choose)
    except av.error.FFmpegError as error:
        if found and found.kind == "other":
            advice = f"; {found.advice}" if found.advice else ""
            message = f"{name}: not a video but {found.name}{advice}"
            raise BadData("not a video", message) from error
        # A truncated MP4 does not open: its index is usually at the end.
        is_video = head[4:8] == b"ftyp" or opens(file)
        reason = "damaged video" if is_video else "not a video"
        message = f"{name}: not a video that FFmpeg reads, or damaged ({error.strerror})"
        raise BadData(reason, message) from error
    # On a damaged file PyAV also raises other exceptions.
    except Exception as error:
        with describe_failure(name, "video"):
            raise error
    if not frames:
        message = f"{name}: no frames; expected a file with a video stream"
        raise BadData("video without frames", message)
    return frames
