"""Hashes a source's content; a copy in another directory has the same hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image

from owl_jax.data.sources.custom import CustomRecords
from owl_jax.data.sources.record import FilePart, Medium, Source, Video
from owl_jax.errors import BadData

_MAX_RECORDS = 64  # hashing more records would slow down the start on slow disks


def fingerprint(source: Source) -> str:
    """16 hexadecimal digits: a hash of the number of records, the size in bytes and some records.

    Hashes up to 64 records, evenly spaced from first to last: the text, the task type and the media
    of each. Media files are not opened: a file is hashed by its name without the directory, and a
    part of a file by its name and size. A medium in memory is hashed by its content. An unreadable
    record contributes the reason of its BadData; a custom source also contributes its content().

    Propagates any other error raised by the source, such as UserError for a missing file.
    """
    count = len(source)
    num_hashed = min(count, _MAX_RECORDS)
    positions = [number * (count - 1) // max(num_hashed - 1, 1) for number in range(num_hashed)]
    content: list[Any] = [
        count,
        source.num_bytes(),
        *(_describe_record(source, position) for position in positions),
    ]
    if isinstance(source, CustomRecords):
        content.append(source.content())
    # json.dumps writes ASCII, so undecodable bytes in file names are escaped.
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _describe_record(source: Source, index: int) -> list[Any]:
    try:
        record = source[index]
    except BadData as error:
        return [error.reason]
    images = [_describe(image) for image in record["images"]]
    return [record["text"], images, [_describe(v) for v in record["videos"]], record["task_type"]]


def _describe(medium: Medium | Video) -> Any:
    if isinstance(medium, Path):
        return medium.name
    if isinstance(medium, FilePart):
        return [medium.name, medium.size]
    if isinstance(medium, bytes):
        return hashlib.sha256(medium).hexdigest()
    if isinstance(medium, Image.Image):
        return [medium.mode, medium.size, hashlib.sha256(medium.tobytes()).hexdigest()]
    return [_describe(frame) for frame in medium]
