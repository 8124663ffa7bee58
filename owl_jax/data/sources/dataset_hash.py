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

_POSITIONS = 64  # records to hash; more would slow down the start on slow disks


def fingerprint(source: Source) -> str:
    """16 hexadecimal digits: a hash of the number of records, the size in bytes and some records.

    Hashes up to 64 records, evenly spaced from first to last: the text and task type of each, and
    what is known of its media without opening them. That is the name of a file without its
    directory, the name and size of a part of a file, or the content of a medium in memory. An
    unreadable record contributes its reason; a custom source also contributes its content().

    Passes on any other error of the source, such as UserError for a file that is gone.
    """
    count = len(source)
    few = min(count, _POSITIONS)
    positions = [number * (count - 1) // max(few - 1, 1) for number in range(few)]
    content: list[Any] = [
        count,
        source.num_bytes(),
        *(_describe_record(source, position) for position in positions),
    ]
    if isinstance(source, CustomRecords):
        content.append(source.content())
    # As ASCII, so that arbitrary bytes in file names are escaped.
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
