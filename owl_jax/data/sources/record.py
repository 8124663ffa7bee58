"""What every source gives: records, and a source as random access to them.

A source is picklable, opens its files when it is first asked, and holds no record. What lies in a
larger file (a member of a tar) is a FilePart until its bytes are needed.
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


@dataclass(frozen=True)
class FilePart:
    """`size` bytes of a file from `offset` on; `name` is what messages call it."""

    path: Path
    offset: int
    size: int
    name: str

    def read(self) -> bytes:
        """The bytes. Raises BadData where the file is gone or shorter."""
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
    """One conversation as it is stored, before anything of it is decoded.

    text: in the original's format (text/conversation.py), a mark for each medium.
    images: in reading order. videos: each a file, or its frames in order.
    task_type: the original's; nothing depends on it. where: "FILE:LINE" or the like, for messages.
    unread: keys of the example that look like media and are not read, if there are any.
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

        Raises BadData for one that cannot be read as a conversation; its message begins with
        `where(index)` and ": ".
        """
        ...

    def where(self, index: int) -> str:
        """What messages call record `index`: FILE:LINE, TAR:KEY or the like.

        No medium is opened for it, and it is there for a record that cannot be read, too.
        """
        ...

    def num_bytes(self) -> int:
        """Of what the records are read from, without the files of media beside it.

        Little else shows that one record of millions was edited (sources/fingerprint.py). A copy
        has as many; what is nowhere written has 0.
        """
        ...
