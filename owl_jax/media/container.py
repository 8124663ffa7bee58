"""Reads the frames of a video file with FFmpeg.

Frames are what a viewer shows: rotated and flipped by the display matrix (media/display.py), on
white if transparent.

FFmpeg reads only the given file: it gets an open file, cannot open another one, and has no readers
for playlists, network streams or numbered files (_DEMUXERS). Functions raise av.error.FFmpegError,
any exception of PyAV on damaged files, or BadData without the file's name, which media/video.py
adds.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, cast

import av
from av.codec import CodecContext, codecs_available
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from PIL import Image

from owl_jax.errors import BadData
from owl_jax.files import open_regular
from owl_jax.media.display import apply_display_matrix, rotation_matrix
from owl_jax.media.rgb import check_pixels, on_white

# The FFmpeg readers in use: video files, raw video streams, and sound files, to report that they
# have no frames.
_DEMUXERS = (
    "mov,matroska,avi,flv,mpegts,mpeg,mpegvideo,m4v,h261,h263,h264,hevc,vvc,av1,"
    "obu,ivf,vc1,vc1test,dirac,cavsvideo,ogg,asf,rm,mxf,gxf,dv,nut,nsv,nuv,"
    "swf,amv,wtv,yuv4mpegpipe,mjpeg,jpeg_pipe,aac,aiff,flac,mp3,wav"
)
_SAFE_OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "fd"}

# FFmpeg's own decoders of these ignore the alpha channel.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}

_COMPLETE = 0.9  # of the stated duration; the streams of a complete file may end earlier

VideoFile = str | Path | bytes
# The seconds of the frames in a file -> the indices of the chosen ones.
Choose = Callable[[Sequence[float]], list[int]]


def read_by_seeking(file: VideoFile, choose: Choose) -> list[Image.Image]:
    """The chosen frames, found by timestamp; [] if the file's timestamps do not allow it.

    Lists the packets without decoding them. Then, for each chosen frame, seeks to the last key
    frame at or before it and decodes from there; continues without seeking if already past it.
    """
    with _open(file) as container:
        stream = _video_stream(container)
        if stream is None:
            return []
        # Keep only timestamps: the packets are the whole file.
        stamps, end = [], 0.0
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index and packet.size and not packet.is_discard:
                stamps.append((packet.pts, packet.is_keyframe))
        _check_complete(container, end)
        times = sorted(time for time, _ in stamps if time is not None)
        keys = [time for time, is_key in stamps if is_key and time is not None]
        if not times or len(times) < len(stamps):
            return []
        base = stream.time_base or 1
        seconds = [float((time - times[0]) * base) for time in times]
        wanted = [times[i] for i in choose(seconds)]
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


def read_in_order(file: VideoFile, choose: Choose) -> list[Image.Image]:
    """The chosen frames; decodes the file twice, first to count frames. [] if there are none.

    Frames without a time follow each other at the stated rate.
    """
    stamps = [frame.time for frame in _every_frame(file)]
    if not stamps:
        return []
    wanted = choose(_seconds(stamps, _stated_rate(file)))
    frames = enumerate(_every_frame(file))
    found = {i: _to_image(frame) for i, frame in frames if i in wanted}
    return [found[i] for i in wanted]


def _seconds(stamps: Sequence[float | None], rate: float) -> list[float]:
    """Times from the first frame on: those of the frames, if they ascend."""
    times = [time - stamps[0] for time in stamps if time is not None and stamps[0] is not None]
    if len(times) == len(stamps) and times == sorted(times):
        return times
    return [index / rate for index in range(len(stamps))]


def _stated_rate(file: VideoFile) -> float:
    """Frames a second."""
    with _open(file) as container:
        stream = _video_stream(container)
        return float((stream and (stream.average_rate or stream.guessed_rate)) or 25)


def stated_video(file: VideoFile) -> tuple[int, int, int] | None:
    """Width, height and number of frames (0: not stated) of a video, from its header.

    None if there is no video stream.
    """
    try:
        with _open(file) as container:
            stream = _first_stream(container)
            if stream is None:
                return None
            frames = stream.frames
            if not frames and container.duration and stream.average_rate:
                frames = int(container.duration / av.time_base * stream.average_rate)
            return stream.codec_context.width, stream.codec_context.height, frames
    except Exception:  # on a damaged file PyAV raises any exception
        return None


def opens(file: VideoFile) -> bool:
    """Whether FFmpeg recognises a file as video or sound by its beginning."""
    try:
        _open(file).close()
    except av.error.FFmpegError:
        return False
    return True


def is_jpeg_stream(file: VideoFile) -> bool:
    """Whether a file is Motion JPEG: several JPEGs in a row. An MPO counts as one image."""
    try:
        with _open(file, "mjpeg") as container:
            packets = islice((packet for packet in container.demux() if packet.size), 2)
            if sum(1 for _ in packets) < 2:
                return False
    except av.error.FFmpegError:
        return False
    try:
        opened = BytesIO(file) if isinstance(file, bytes) else open_regular(Path(file))
        with opened, Image.open(opened, formats=["JPEG"]) as image:
            return image.format != "MPO"
    except Exception:  # on a damaged file Pillow raises any exception
        return True


def _open(file: VideoFile, format: str | None = None) -> InputContainer:
    """format: FFmpeg's name of the format; None detects it."""
    # Titles may be in any encoding.
    open_container = partial(av.open, mode="r", format=format, metadata_errors="replace")
    if isinstance(file, bytes):
        return open_container(BytesIO(file), container_options=_SAFE_OPTIONS)
    # Pass a descriptor, which FFmpeg duplicates: FFmpeg would parse a name as a URL or a pattern.
    with open_regular(Path(file)) as opened:
        options = {**_SAFE_OPTIONS, "fd": str(opened.fileno())}
        return open_container("fd:", container_options=options)


def _check_complete(container: InputContainer, end: float) -> None:
    """Raises BadData for a truncated file; FFmpeg would return the remaining frames as if complete.

    end: seconds at which the last packet of all streams ends.
    """
    # In other formats the duration is not stored but estimated from the packets.
    if container.duration is None or not container.format.name.startswith(("mov", "matroska")):
        return
    duration = container.duration / av.time_base
    if end - (container.start_time or 0) / av.time_base < _COMPLETE * duration:
        raise BadData("damaged video", f"cut short: {end:.1f} s are left of {duration:.1f}")


def _every_frame(file: VideoFile) -> Iterator[av.VideoFrame]:
    with _open(file) as container:
        stream = _video_stream(container)
        if stream is not None:
            yield from _decode(container, stream)


def _video_stream(container: InputContainer) -> VideoStream | None:
    """The first video stream that is not cover art. Raises BadData for too many pixels."""
    stream = _first_stream(container)
    if stream is not None:
        check_pixels(stream.codec_context.width, stream.codec_context.height)
    return stream


def _first_stream(container: InputContainer) -> VideoStream | None:
    covers = Disposition.attached_pic
    return next((s for s in container.streams.video if not s.disposition & covers), None)


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """The frames from the container's position on, with their alpha channel if they have one."""
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
    matrix = _display_matrix(frame)
    is_opaque = not (frame.format.has_palette or any(c.is_alpha for c in frame.format.components))
    if is_opaque:
        image = frame.to_image()
    else:
        image = on_white(Image.fromarray(frame.to_ndarray(format="rgba"), "RGBA"))
    return apply_display_matrix(image, matrix) if matrix else image


def _display_matrix(frame: av.VideoFrame) -> bytes:
    """The frame's display matrix; b"" if it has none."""
    try:
        found: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # other side data of a kind that PyAV does not know
        return rotation_matrix(frame.rotation)
    return b"" if found is None else bytes(found)
