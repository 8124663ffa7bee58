"""From a video to the few frames that the model sees.

A video is a file that FFmpeg reads, an animated GIF (or WebP, PNG), a folder of frames, or a list
of pictures. Frames are chosen by number, as in the original, and treated like pictures
(owl_jax/processing/image.py): every frame is squashed to the square.

Letters: T frames, S side of the square.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from owl_jax.errors import UserError
from owl_jax.processing.image import (
    IMAGE_FORMATS,
    ImageSource,
    describe_failure,
    load_image,
    name_source,
    preprocess_image,
)

_ANIMATION_SUFFIXES = (".gif", ".webp", ".png", ".apng")
_FRAME_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

VideoSource = str | Path | Sequence[ImageSource]


def frame_indices(num_frames_in_file: int, num_frames: int) -> list[int]:
    """Numbers of the T = num_frames frames to take; a short video repeats frames.

    Source: get_index of the original's video package, with NumPy's rounding (half to even).
    Raises ValueError where either number is below 1.
    """
    if num_frames_in_file < 1 or num_frames < 1:
        raise ValueError(f"{num_frames} of {num_frames_in_file} frames; expected at least 1 of 1")
    segment = (num_frames_in_file - 1) / num_frames
    return [int(segment / 2) + int(np.round(segment * i)) for i in range(num_frames)]


def load_video(
    source: VideoSource, num_frames: int, size: int, where: str | None = None
) -> np.ndarray:
    """Frames uint8[T, S, S, 3] of a video file, a folder of frames, an animation or a list.

    The files of a folder are taken in natural order (frame2 before frame10); hidden files and other
    kinds of files are passed over. Only the chosen frames are loaded or converted.
    `where` ("data.jsonl:12") is put before the file's name in messages.

    Raises UserError, naming file and reason, for what is missing, unreadable or has no frame.
    """
    name = name_source(source, where, "video")
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            frames = _choose(_files_of_frames(path), num_frames, name)
        elif path.suffix.lower() in _ANIMATION_SUFFIXES:
            frames = _read_animation(path, num_frames, name)
        else:
            frames = _read_file(path, num_frames, name)
    elif isinstance(source, Sequence) and not isinstance(source, bytes):
        frames = _choose(source, num_frames, name)
    else:
        raise UserError(
            f"{name} is {type(source).__name__}; expected a file, a folder or a list of pictures"
        )
    return np.stack([preprocess_image(frame, size) for frame in frames])


def _choose(sources: Sequence[ImageSource], num_frames: int, name: str) -> list[Image.Image]:
    if not sources:
        raise UserError(f"{name}: no frames; expected pictures ({', '.join(_FRAME_SUFFIXES)})")
    return [load_image(sources[i], name) for i in frame_indices(len(sources), num_frames)]


def _files_of_frames(folder: Path) -> list[Path]:
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _FRAME_SUFFIXES and not path.name.startswith(".")
    ]
    return sorted(files, key=lambda path: (_natural_key(path.name), path.name))


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Digits by their value, the rest as text: "f2" before "f10"."""
    return [
        (int(part), "") if place % 2 else (0, part.lower())
        for place, part in enumerate(re.split("([0-9]+)", name))
    ]


def _read_animation(path: Path, num_frames: int, name: str) -> list[Image.Image]:
    with describe_failure(name), Image.open(path, formats=IMAGE_FORMATS) as image:
        frames = []
        for index in frame_indices(getattr(image, "n_frames", 1), num_frames):
            image.seek(index)
            frames.append(load_image(image))
        return frames


def _read_file(path: Path, num_frames: int, name: str) -> list[Image.Image]:
    if not path.is_file():
        raise UserError(f"{name}: no such file")
    # FFmpeg takes the part before a colon for a protocol.
    url = f"file:{path}"
    try:
        frames = _read_by_seeking(url, num_frames) or _read_in_order(url, num_frames)
    except av.error.FFmpegError as error:
        raise UserError(
            f"{name}: not a video that FFmpeg reads, or damaged ({error.strerror})"
        ) from error
    if not frames:
        raise UserError(f"{name}: no frames; expected a file with a video stream")
    return frames


def _read_by_seeking(url: str, num_frames: int) -> list[Image.Image]:
    """The chosen frames, found by their time stamps; [] where the file's stamps do not allow it.

    The packets are listed without being decoded; then decoding starts at the last key frame at or
    before each wanted frame, unless it is under way between the two already.
    """
    with av.open(url) as container:
        if not container.streams.video:
            return []
        stream = container.streams.video[0]
        # Stamps only: the packets themselves are the whole file.
        stamps = [
            (packet.pts, packet.is_keyframe)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard
        ]
        times = sorted(time for time, _ in stamps if time is not None)
        keys = [time for time, is_key in stamps if is_key and time is not None]
        if not times or len(times) < len(stamps):
            return []
        wanted = [times[i] for i in frame_indices(len(times), num_frames)]
        found: dict[int, Image.Image] = {}
        position = None
        for time in sorted(set(wanted)):
            key = max((k for k in keys if k <= time), default=times[0])
            if position is None or key > position:
                container.seek(key, stream=stream)
                decoder = container.decode(stream)
            frame = next((f for f in decoder if f.pts is None or f.pts >= time), None)
            if frame is None or frame.pts != time:
                return []
            position = time
            found[time] = _to_image(frame)
        return [found[time] for time in wanted]


def _read_in_order(url: str, num_frames: int) -> list[Image.Image]:
    """The chosen frames by decoding all, first to count them; [] where there is none."""
    with av.open(url) as container:
        if not container.streams.video:
            return []
        count = sum(1 for _ in container.decode(video=0))
    if not count:
        return []
    wanted = frame_indices(count, num_frames)
    with av.open(url) as container:
        found = {
            i: _to_image(frame) for i, frame in enumerate(container.decode(video=0)) if i in wanted
        }
    return [found[i] for i in wanted]


def _to_image(frame: av.VideoFrame) -> Image.Image:
    # Phones store upright videos lying, with a note; the same choice as for EXIF in pictures.
    return frame.to_image().rotate(frame.rotation, expand=True)
