"""Where the records of a large text file lie, found once.

A scan goes through the file from front to back and says of each record where it begins, where it
ends and on which line. The index is an array int64[N, 3] of (start, end, line) for N records, in
bytes and in lines counted from 1. A negative end says that what begins at the start is broken, and
where it would end cannot be told.

With an `index_dir` the index is a file there (sources/kept_index.py): the next run finds it, and so
does every other process of this one.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from owl_jax.data.sources.kept_index import index_file, keep_index, map_index, state_of
from owl_jax.errors import BadData, UserError
from owl_jax.files import open_regular

# Of the array and of what the scans find. A new number makes every index anew.
_VERSION = 1

# Bytes: room for dozens of pictures as base64. What quotes or braces that nothing closes make one
# record of may be a whole file, which would be read into memory several times over.
LARGEST_RECORD = 1 << 28

Scan = Callable[[BinaryIO], Iterator[np.ndarray]]


class IndexedFile:
    """Random access to the records of a file, as bytes.

    What is pickled is the path and the state of the file, not the index. A file that changes after
    it was opened is refused, whichever process reads: its records would be others.
    """

    def __init__(self, path: Path, scan: Scan, name: str, expected: str, index_dir: Path | None):
        """Indexes the file, or finds its index.

        Args:
          scan: from the open file to parts int64[n, 3] of the index, in order; picklable.
          name: of the scan; another scan of the same file has another.
          expected: what the file should hold, for messages.
          index_dir: where indexes are kept, made if need be; None keeps this one in memory.

        Raises UserError where the file cannot be read, holds no record or is still written to, and
        where the index cannot be kept.
        """
        self.path, self._scan, self._name, self._expected = Path(path), scan, name, expected
        self._index_dir = None if index_dir is None else Path(index_dir)
        with open_data(self.path) as file:
            self._state = state_of(file)
        _ = self._index

    def __len__(self) -> int:
        return len(self._index)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_index"}

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return self._state[0]

    def where(self, number: int) -> str:
        """What messages call a record: FILE:LINE, or FILE:LINE[NUMBER] where a line has several.

        The line is the one on which it begins; the number counts all records from 0.
        """
        number = range(len(self._index))[number]
        lines = self._index[max(number - 1, 0) : number + 2, 2].tolist()
        line = self._index[number, 2]
        return f"{self.path}:{line}" + (f"[{number}]" if lines.count(line) > 1 else "")

    def read(self, number: int) -> bytes:
        """The bytes of a record; any number of threads may read at once.

        Raises BadData for a broken one, UserError where the file is gone or has changed.
        """
        start, end, _ = self._index[number].tolist()
        if end < 0:
            message = f"{self.where(number)}: broken or cut short from here on"
            raise BadData("cut short", message)
        check_record_size(end - start, self.where(number))
        with open_data(self.path) as file:
            self._check(file)
            return os.pread(file.fileno(), end - start, start)

    @cached_property
    def _index(self) -> np.ndarray:
        if self._index_dir is None:
            return np.concatenate(list(self._find()))
        kept = index_file(self._index_dir, self.path, self._state, _VERSION, self._name)
        keep_index(kept, self.path, 3, self._find)
        return map_index(kept)

    def _find(self) -> Iterator[np.ndarray]:
        """The parts of the index, none of them empty, at least one."""
        empty = True
        with open_data(self.path) as file:
            for part in self._scan(file):
                if len(part):
                    empty = False
                    yield part
            self._check(file)
        if empty:
            raise UserError(f"{self.path}: empty; expected {self._expected}")

    def _check(self, file: BinaryIO) -> None:
        if state_of(file) != self._state:
            raise UserError(
                f"{self.path}: was changed while it was in use; leave it alone and start again"
            )


def check_record_size(size: int, where: str) -> None:
    """Raises BadData for a record of so many bytes that no model of any length could use it."""
    if size > LARGEST_RECORD:
        raise BadData(
            "record too large",
            f"{where}: {size:,} bytes; a record may have {LARGEST_RECORD:,}, pictures too",
        )


def open_data(path: Path) -> BinaryIO:
    """A file of the user's, open for reading. Raises UserError where that fails."""
    try:
        return open_regular(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def bytes_of(paths: Iterable[Path]) -> int:
    """Of files of the user's, together. Raises UserError for one that is gone."""
    return sum(_size(path) for path in paths)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def skip_bom(file: BinaryIO) -> int:
    """Goes to where the text of a file begins, behind a byte order mark; the position."""
    start = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    return file.seek(start)
