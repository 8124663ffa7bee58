"""From a video to the few frames that the model sees.

A video is a file that FFmpeg reads, an animated GIF (or WebP, PNG), the bytes of either, a folder
of frames, or a list of pictures. Frames are chosen by number, as in the original, and treated like
pictures (owl_jax/processing/image.py): every frame is squashed to the square.

Frames are shown as a viewer shows them: turned and mirrored by the display matrix
(processing/display.py), and on white where they are transparent.

What cannot be used raises BadData with one of these reasons: missing file, unreadable file, not a
video, unsupported format (HEIC and the like), damaged video (spoilt or cut short), video without
frames; for frames that are pictures, those of a picture.

A file can only ever read itself: FFmpeg gets no protocol but files, and no demuxer of playlists,
of streams or of numbered files (_DEMUXERS).

Letters: T frames, S side of the square.
"""

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.codec import CodecContext, codecs_available
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from PIL import Image

from owl_jax.errors import BadData
from owl_jax.files import is_directory, open_regular
from owl_jax.processing.display import apply_display_matrix, rotation_matrix
from owl_jax.processing.image import (
    ImageSource,
    Part,
    Unusual,
    describe_failure,
    is_part,
    load_image,
    name_source,
    preprocess_image,
    read_part,
    read_picture,
    to_rgb,
)
from owl_jax.processing.rgb import check_pixels, on_white
from owl_jax.processing.signatures import HEAD, identify, is_avif

_WHOLE = 0.9  # of the stated duration; streams of a whole file need not end together
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

# FFmpeg's readers that are used: files of video, raw streams of it, and sound, of which it can be
# said that it has no pictures.
_DEMUXERS = (
    "mov",
    "matroska",
    "avi",
    "flv",
    "mpegts",
    "mpeg",
    "mpegvideo",
    "m4v",
    "h261",
    "h263",
    "h264",
    "hevc",
    "vvc",
    "av1",
    "obu",
    "ivf",
    "vc1",
    "vc1test",
    "dirac",
    "cavsvideo",
    "ogg",
    "asf",
    "rm",
    "mxf",
    "gxf",
    "dv",
    "nut",
    "nsv",
    "nuv",
    "swf",
    "amv",
    "wtv",
    "yuv4mpegpipe",
    "mjpeg",
    "jpeg_pipe",
    "aac",
    "aiff",
    "flac",
    "mp3",
    "wav",
)
_SAFELY = {"format_whitelist": ",".join(_DEMUXERS), "protocol_whitelist": "file"}

# How the files of pictures begin that are never a stream of FFmpeg's.
_PICTURES = (b"GIF8", b"\x89PNG", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")

# FFmpeg's own decoders of these leave the alpha channel out.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}

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
    if is_file and is_directory(given):
        with describe_failure(name, "video"):
            given = frame_files(Path(given))
    elif is_file or isinstance(given, bytes):
        with describe_failure(name, "video"):
            head = given[:HEAD] if isinstance(given, bytes) else _read_head(Path(given))
        if _is_animation(given, head):
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
    """The frames of a folder of frames, in natural order. Raises OSError if it is not readable."""
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
    with open_regular(path) as file:
        return file.read(HEAD)


def _is_animation(file: str | Path | bytes, head: bytes) -> bool:
    """Whether a file begins as a picture of Pillow's that may move, or is only ever a picture.

    FFmpeg does not read all of these animations, and chooses its reader of pictures by their names.
    """
    if head.startswith(b"\xff\xd8"):
        return not _is_jpeg_stream(file)
    is_webp = (head[:4], head[8:12]) == (b"RIFF", b"WEBP")
    is_ppm = head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace()
    return is_webp or is_ppm or is_avif(head) or head.startswith(_PICTURES)


def _is_jpeg_stream(file: str | Path | bytes) -> bool:
    """Whether a JPEG is followed by more of them, as in Motion JPEG; an MPO is one photograph."""
    try:
        with _open(_url(file), "mjpeg") as container:
            packets = islice((packet for packet in container.demux() if packet.size), 2)
            if sum(1 for _ in packets) < 2:
                return False
    except av.error.FFmpegError:
        return False
    try:
        opened = BytesIO(file) if isinstance(file, bytes) else open_regular(Path(file))
        with opened, Image.open(opened, formats=["JPEG"]) as image:
            return image.format != "MPO"
    except Exception:  # whatever Pillow stumbles over in a damaged file
        return True


def _read_animation(
    file: str | Path | bytes, num_frames: int, name: str, unusual: Unusual
) -> list[Image.Image]:
    def decode(image: Image.Image) -> list[Image.Image]:
        frames = []
        for index in frame_indices(getattr(image, "n_frames", 1), num_frames):
            image.seek(index)
            frames.append(to_rgb(image, unusual, is_frame=True))
        return frames

    with describe_failure(name, "video"):
        if isinstance(file, bytes):
            return read_picture(BytesIO(file), decode)
        with open_regular(Path(file)) as opened:
            return read_picture(opened, decode)


def _read_container(
    file: str | Path | bytes, head: bytes, num_frames: int, name: str
) -> list[Image.Image]:
    found = identify(head)
    if found and found.kind == "picture":
        message = f"{name}: {found.name}, which is not read; {found.advice}"
        raise BadData("unsupported format", message)
    url = _url(file)
    try:
        frames = _read_by_seeking(url, num_frames) or _read_in_order(url, num_frames)
    except av.error.FFmpegError as error:
        if found and found.kind == "other":
            advice = f"; {found.advice}" if found.advice else ""
            message = f"{name}: not a video but {found.name}{advice}"
            raise BadData("not a video", message) from error
        # An MP4 that was cut does not open: what it holds is mostly told at its end.
        is_video = head[4:8] == b"ftyp" or _opens(url)
        reason = "damaged video" if is_video else "not a video"
        message = f"{name}: not a video that FFmpeg reads, or damaged ({error.strerror})"
        raise BadData(reason, message) from error
    # On a damaged file PyAV raises more than FFmpeg's errors.
    except Exception as error:
        with describe_failure(name, "video"):
            raise error
    if not frames:
        message = f"{name}: no frames; expected a file with a video stream"
        raise BadData("video without frames", message)
    return frames


def _url(file: str | Path | bytes) -> str | bytes:
    # FFmpeg takes the part before a colon for a protocol.
    return file if isinstance(file, bytes) else f"file:{file}"


def _open(url: str | bytes, format: str | None = None) -> InputContainer:
    """format: FFmpeg's name of it, where the file is not to be asked."""
    file = BytesIO(url) if isinstance(url, bytes) else url
    # Titles may be in any encoding.
    return av.open(file, "r", format, container_options=_SAFELY, metadata_errors="replace")


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
        stream = _moving_pictures(container)
        if stream is None:
            return []
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
                decoder = _decode(container, stream)
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
    count = sum(1 for _ in _every_frame(url))
    if not count:
        return []
    wanted = frame_indices(count, num_frames)
    frames = enumerate(_every_frame(url))
    found = {i: _to_image(frame) for i, frame in frames if i in wanted}
    return [found[i] for i in wanted]


def _every_frame(url: str | bytes) -> Iterator[av.VideoFrame]:
    with _open(url) as container:
        stream = _moving_pictures(container)
        if stream is not None:
            yield from _decode(container, stream)


def _moving_pictures(container: InputContainer) -> VideoStream | None:
    """The first video stream that is no cover of an album or a film.

    Raises BadData, without a name, for one of too many pixels.
    """
    covers = Disposition.attached_pic
    stream = next((s for s in container.streams.video if not s.disposition & covers), None)
    if stream is not None:
        check_pixels(stream.codec_context.width, stream.codec_context.height)
    return stream


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """The frames from where the container is on, with their alpha channel if they have one."""
    decoder = None
    if stream.metadata.get("alpha_mode") == "1":
        decoder = _ALPHA_DECODERS.get(stream.codec_context.name)
    if decoder is None or decoder not in codecs_available:
        yield from container.decode(stream)
        return
    context = cast(VideoCodecContext, CodecContext.create(decoder, "r"))
    for packet in container.demux(stream):
        yield from context.decode(packet)


def _to_image(frame: av.VideoFrame) -> Image.Image:
    # Phones store upright videos lying, with a note; the same choice as for EXIF in pictures.
    matrix = _display_matrix(frame)
    is_opaque = not (frame.format.has_palette or any(c.is_alpha for c in frame.format.components))
    if is_opaque:
        image = frame.to_image()
    else:
        image = on_white(Image.fromarray(frame.to_ndarray(format="rgba"), "RGBA"))
    return apply_display_matrix(image, matrix) if matrix else image


def _display_matrix(frame: av.VideoFrame) -> bytes:
    """b"" where the frame has none."""
    try:
        found: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # data beside it of a kind that PyAV does not know
        return rotation_matrix(frame.rotation)
    return b"" if found is None else bytes(found)
