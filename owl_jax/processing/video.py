"""From a video to the few frames that the model sees.

A video is a file that FFmpeg reads, an animated GIF (or WebP, PNG), the bytes of either, a folder
of frames, or a list of pictures. Frames are chosen by number, as in the original, and treated like
pictures (owl_jax/processing/image.py): every frame is squashed to the square.

What cannot be used raises BadData with one of these reasons: missing file, unreadable file, not a
video, damaged video (spoilt or cut short), video without frames; for frames that are pictures,
those of a picture.

Letters: T frames, S side of the square.
"""

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from PIL import Image

from owl_jax.errors import BadData
from owl_jax.processing.image import (
    IMAGE_FORMATS,
    ImageSource,
    Part,
    Unusual,
    check_size,
    describe_failure,
    is_part,
    load_image,
    name_source,
    preprocess_image,
    read_part,
    to_rgb,
)

_HEAD = 12  # bytes that tell animations from other videos
_WHOLE = 0.9  # of the stated duration; streams of a whole file need not end together
FRAME_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

VideoSource = str | Path | bytes | Part | Sequence[ImageSource]


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
    source: VideoSource,
    num_frames: int,
    size: int,
    where: str | None = None,
    *,
    unusual: Unusual = "convert",
) -> np.ndarray:
    """Frames uint8[T, S, S, 3] of a video; source, errors and the rest as in load_frames."""
    frames = load_frames(source, num_frames, where, unusual=unusual)
    return np.stack([preprocess_image(frame, size) for frame in frames])


def load_frames(
    source: VideoSource,
    num_frames: int,
    where: str | None = None,
    *,
    unusual: Unusual = "convert",
    shrink_to: int | None = None,
) -> list[Image.Image]:
    """T = num_frames upright RGB pictures of a video file, its bytes, a folder, a Part or a list.

    The files of a folder are taken in natural order (frame2 before frame10); hidden files and other
    kinds of files are passed over. Only the chosen frames are loaded or converted.

    Args:
      where: "data.jsonl:12", put before the file's name in messages.
      unusual: as in load_image, for frames; that a video moves is not unusual.
      shrink_to: as in load_image, for frames that are JPEG files.

    Raises BadData (the module's docstring lists the reasons), naming the file.
    """
    name = name_source(source, where, "video")
    given: Any = read_part(source, where) if is_part(source) else source
    is_file = isinstance(given, str | Path)
    if is_file and Path(given).is_dir():
        given = frame_files(Path(given))
    elif is_file or isinstance(given, bytes):
        with describe_failure(name, "video"):
            head = given[:_HEAD] if isinstance(given, bytes) else _read_head(Path(given))
        if _is_animation(head):
            return _read_animation(given, num_frames, name, unusual)
        return _read_container(given, head, num_frames, name)
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
        for i in frame_indices(len(given), num_frames)
    ]


def frame_files(folder: Path) -> list[Path]:
    """The frames of a folder of frames, in natural order."""
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in FRAME_SUFFIXES and not path.name.startswith(".")
    ]
    return sorted(files, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts digits by their value and the rest as text: "f2" before "f10"."""
    parts = [
        (int(part), "") if place % 2 else (0, part.lower())
        for place, part in enumerate(re.split("([0-9]+)", name))
    ]
    return parts, name


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _is_animation(head: bytes) -> bool:
    """Whether a file begins as GIF, PNG or WebP: FFmpeg does not read all of their animations."""
    return head.startswith((b"GIF8", b"\x89PNG")) or (head[:4], head[8:]) == (b"RIFF", b"WEBP")


def _read_animation(
    file: str | Path | bytes, num_frames: int, name: str, unusual: Unusual
) -> list[Image.Image]:
    opened = BytesIO(file) if isinstance(file, bytes) else file
    with describe_failure(name, "video"), Image.open(opened, formats=IMAGE_FORMATS) as image:
        check_size(image)  # before the first seek, which decodes
        frames = []
        for index in frame_indices(getattr(image, "n_frames", 1), num_frames):
            image.seek(index)
            frames.append(to_rgb(image, unusual, is_frame=True))
        return frames


def _read_container(
    file: str | Path | bytes, head: bytes, num_frames: int, name: str
) -> list[Image.Image]:
    # FFmpeg takes the part before a colon for a protocol.
    url = file if isinstance(file, bytes) else f"file:{file}"
    try:
        frames = _read_by_seeking(url, num_frames) or _read_in_order(url, num_frames)
    except av.error.FFmpegError as error:
        # An MP4 that was cut does not open: what it holds is mostly told at its end.
        is_video = head[4:8] == b"ftyp" or _opens(url)
        reason = "damaged video" if is_video else "not a video"
        message = f"{name}: not a video that FFmpeg reads, or damaged ({error.strerror})"
        raise BadData(reason, message) from error
    except BadData as error:
        raise BadData(error.reason, f"{name}: {error}") from error
    if not frames:
        message = f"{name}: no frames; expected a file with a video stream"
        raise BadData("video without frames", message)
    return frames


def _open(url: str | bytes) -> InputContainer:
    return av.open(BytesIO(url) if isinstance(url, bytes) else url, "r")


def _opens(url: str | bytes) -> bool:
    try:
        _open(url).close()
    except av.error.FFmpegError:
        return False
    return True


def _read_by_seeking(url: str | bytes, num_frames: int) -> list[Image.Image]:
    """The chosen frames, found by their time stamps; [] where the file's stamps do not allow it.

    The packets are listed without being decoded; then decoding starts at the last key frame at or
    before each wanted frame, unless it is under way between the two already.
    """
    with _open(url) as container:
        if not container.streams.video:
            return []
        stream = container.streams.video[0]
        # Stamps only: the packets themselves are the whole file.
        stamps, end = [], 0.0
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index and packet.size and not packet.is_discard:
                stamps.append((packet.pts, packet.is_keyframe))
        _check_whole(container, end)
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


def _check_whole(container: InputContainer, end: float) -> None:
    """Raises BadData for a file that was cut: FFmpeg would give the frames that are left.

    end: seconds at which the last packet of all streams ends.
    """
    # Elsewhere the duration is not stored but estimated, from what is there.
    if container.duration is None or not container.format.name.startswith(("mov", "matroska")):
        return
    duration = container.duration / av.time_base
    if end - (container.start_time or 0) / av.time_base < _WHOLE * duration:
        raise BadData("damaged video", f"cut short: {duration:.1f} s, of which {end:.1f} are there")


def _read_in_order(url: str | bytes, num_frames: int) -> list[Image.Image]:
    """The chosen frames by decoding all, first to count them; [] where there is none."""
    with _open(url) as container:
        if not container.streams.video:
            return []
        count = sum(1 for _ in container.decode(video=0))
    if not count:
        return []
    wanted = frame_indices(count, num_frames)
    with _open(url) as container:
        found = {
            i: _to_image(frame) for i, frame in enumerate(container.decode(video=0)) if i in wanted
        }
    return [found[i] for i in wanted]


def _to_image(frame: av.VideoFrame) -> Image.Image:
    # Phones store upright videos lying, with a note; the same choice as for EXIF in pictures.
    return frame.to_image().rotate(frame.rotation, expand=True)
