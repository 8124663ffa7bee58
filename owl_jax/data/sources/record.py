"""Records, and the interface of a source: random access to them.

A source is picklable, opens its files at the first access, and caches no records. A member of a
larger file, such as a tar, is a FilePart until its bytes are needed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, Protocol, TypedDict

from PIL import Image

from owl_jax.errors import BadData
from owl_jax.files import bad_file, open_regular

# In bytes; leaves room for images in base64. Parsing takes several times as much memory, in each
# thread.
LARGEST_TEXT = 1 << 26


def check_size(nbytes: int, where: str) -> None:
    """Raises BadData for a record whose text is too large to read."""
    if nbytes > LARGEST_TEXT:
        raise BadData(
            "oversized record",
            f"{where}: {nbytes / 2**20:,.0f} MiB of text; the limit is {LARGEST_TEXT >> 20} MiB: "
            "put pictures and videos into separate files",
        )


@dataclass(frozen=True)
class FilePart:
    """`size` bytes of a file from `offset` on; `name` is for messages."""

    path: Path
    offset: int
    size: int
    name: str

    def read(self) -> bytes:
        """The bytes. Raises BadData if the file is gone or too short."""
        try:
            with open_regular(self.path) as file:
                data = os.pread(file.fileno(), self.size, self.offset)
        except OSError as error:
            bad = bad_file(error)
            raise BadData(bad.reason, f"{self.name}: {self.path}: {bad}") from None
        if len(data) < self.size:
            raise BadData("truncated file", f"{self.name}: {self.path} ends within it")
        return data

    def __str__(self) -> str:
        return self.name


Medium = Path | bytes | FilePart | Image.Image
Video = Path | bytes | FilePart | Sequence[Medium]


class Record(TypedDict):
    """One conversation with encoded media.

    text: in mPLUG-Owl's format (text/conversation.py), with a placeholder for each medium.
    images: in reading order. videos: each a file, or its frames in order.
    task_type: as in the data; not used. where: "FILE:LINE" or the like, for messages.
    unread: keys of the example that look like media but are not read, if any.
    """

    text: str
    images: list[Medium]
    videos: list[Video]
    task_type: str
    where: str
    unread: NotRequired[tuple[str, ...]]


class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Record `index`.

        Raises BadData if it is not a conversation; the message begins with `where(index)` and ": ".
        """
        ...

    def where(self, index: int) -> str:
        """The name of record `index` in messages: FILE:LINE, TAR:KEY or the like.

        Opens no media, and works for unreadable records too.
        """
        ...

    def num_bytes(self) -> int:
        """Size of the data without separate media files, the same for a copy; 0 if unknown.

        A changed size shows that one record of millions was edited (sources/dataset_hash.py).
        """
        ...
