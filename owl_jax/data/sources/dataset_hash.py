"""What tells one source's content from another's, also after it was copied to another place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image

from owl_jax.data.sources.custom import CustomRecords
from owl_jax.data.sources.record import FilePart, Medium, Source, Video
from owl_jax.errors import BadData

_POSITIONS = 64  # that are looked at; more would cost a start-up on slow disks


def fingerprint(source: Source) -> str:
    """16 hexadecimal digits from the numbers of records and bytes, and what some records say.

    The records are the first, the last and others evenly between; a source of up to 64 has all of
    them looked at. Words count, and of media what can be had without opening them: a file by its
    name, a part of a file by name and size, pictures in memory by their content. Directories do
    not count, so a copy has the same. A record that cannot be read counts by its reason. Of a
    source of one's own its content() counts, too.

    Raises whatever else the source raises, such as UserError for a file that is gone.
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
    # As ASCII: what is no text, as in the names of files, is spelled out.
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
