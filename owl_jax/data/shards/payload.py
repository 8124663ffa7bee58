"""Serialises a record with its media for a shard.

A payload is a msgpack map, which sources/array_record.py reads: "text", "images" (the bytes of each
image file), "videos" (for each video the bytes of its file, or a list with the bytes of each
frame), "task_type" and "where". Media files are copied; an image in memory becomes PNG, which is
lossless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import msgpack
from PIL import Image

from owl_jax.data.sources.record import FilePart, Medium, Record, Video
from owl_jax.errors import BadData, one_line
from owl_jax.files import bad_file, is_directory, open_regular
from owl_jax.media.image import describe_failure, load_image, name_source
from owl_jax.media.video import frame_files, load_frames

# Number of evenly spaced frames of a video file to decode as a check. Decoding all may take
# minutes, and training reads only a few frames.
_FRAMES_TO_TRY = 16


@dataclass(frozen=True)
class Reencoding:
    """Encodes images and frames as JPEG; video files are copied.

    quality: 1 to 100. max_side: images with a longer side are scaled down to it.
    """

    quality: int
    max_side: int | None = None


TEXT_ONLY = "without picture or video"


def notes_of(record: Record) -> list[str]:
    """Notes about a record that is kept: unread media, and whether it is text-only."""
    notes = [f'"{key}" not read, though it looks like media' for key in record.get("unread", ())]
    return notes if record["images"] or record["videos"] else [*notes, TEXT_ONLY]


def pack(record: Record, reencoding: Reencoding | None = None) -> bytes:
    """The payload of a record; decodes its media to check them.

    Keeps animated, CMYK and 16-bit images: a setting of training decides what to do with them.
    Raises BadData for media that cannot be read or decoded.
    """
    where = record["where"]
    values = {
        "text": record["text"],
        "images": [_pack_image(image, where, reencoding) for image in record["images"]],
        "videos": [_pack_video(video, where, reencoding) for video in record["videos"]],
        "task_type": record["task_type"],
        "where": where,
    }
    try:
        # A file name in "where" may not be UTF-8.
        return msgpack.packb(values, unicode_errors="backslashreplace")
    except ValueError as error:  # msgpack's limit is 4 GiB
        raise BadData("record too large", f"{where}: its media are too large ({error})") from None


def _pack_image(medium: Medium, where: str, reencoding: Reencoding | None) -> bytes:
    image = load_image(medium, where)
    if reencoding:
        if reencoding.max_side is not None:
            image.thumbnail((reencoding.max_side,) * 2, Image.Resampling.BICUBIC)
        try:
            return _encode(image, "JPEG", quality=reencoding.quality)
        except (OSError, ValueError) as error:  # such as a side over 65,500 pixels
            name = name_source(medium, where, "picture")
            why = f"{image.width} x {image.height} pixels: {one_line(error)}"
            message = f"{name}: cannot be encoded as JPEG ({why})"
            raise BadData("picture too large", message) from None
    return _encode(image, "PNG") if isinstance(medium, Image.Image) else _read(medium, where)


def _pack_video(video: Video, where: str, reencoding: Reencoding | None) -> bytes | list[bytes]:
    if isinstance(video, Path) and is_directory(video):
        with describe_failure(name_source(video, where, "video"), "video"):
            video = frame_files(video)
    if isinstance(video, Sequence) and not isinstance(video, bytes):
        if not video:
            raise BadData("video without frames", f"{where}: a video has no frames")
        return [_pack_image(frame, where, reencoding) for frame in video]
    load_frames(video, _FRAMES_TO_TRY, where)
    return _read(video, where)


def _read(medium: Path | bytes | FilePart, where: str) -> bytes:
    if isinstance(medium, FilePart):
        try:
            return medium.read()
        except BadData as error:
            raise BadData(error.reason, f"{where}: {error}") from None
    if isinstance(medium, Path):
        try:
            with open_regular(medium) as file:
                return file.read()
        except OSError as error:
            bad = bad_file(error)
            raise BadData(bad.reason, f"{where}: {medium}: {bad}") from None
    return medium


def _encode(image: Image.Image, format: str, **options: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
