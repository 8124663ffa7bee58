"""Indexes the records of a large text file.

A scan reads the file once. The index is an array int64[N, 3] of (start, end, line) for N records:
byte offsets, and lines counted from 1. A negative end marks a broken record whose end is unknown.

With an `index_dir` the index is a file there (sources/kept_index.py), which later runs and the
other processes of this run reuse.
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
from owl_jax.data.sources.record import check_size
from owl_jax.errors import BadData, UserError
from owl_jax.files import open_regular

# Version of the array's format and of the scans; a new number invalidates every stored index.
_VERSION = 1

Scan = Callable[[BinaryIO], Iterator[np.ndarray]]


class IndexedFile:
    """Random access to the records of a file, as bytes.

    Pickles store the path and the state of the file, not the index. Every process refuses a file
    that has changed since it was opened.
    """

    def __init__(self, path: Path, scan: Scan, name: str, expected: str, index_dir: Path | None):
        """Indexes the file, or reuses its index.

        Args:
          scan: yields parts int64[n, 3] of the index of an open file, in order; picklable.
          name: of the scan, unique among the scans of a file.
          expected: what the file should contain, for messages.
          index_dir: where indices are stored, created if needed; None keeps this one in memory.

        Raises UserError if the file cannot be read, has no records or is still being written, and
        if the index cannot be written.
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
        """Size of the file."""
        return self._state[0]

    def where(self, number: int) -> str:
        """FILE:LINE of a record's start, or FILE:LINE[NUMBER] if its line has several.

        NUMBER counts all records of the file from 0.
        """
        number = range(len(self._index))[number]
        lines = self._index[max(number - 1, 0) : number + 2, 2].tolist()
        line = self._index[number, 2]
        return f"{self.path}:{line}" + (f"[{number}]" if lines.count(line) > 1 else "")

    def read(self, number: int) -> bytes:
        """The bytes of a record; thread-safe.

        Raises BadData for a broken or oversized record, UserError if the file is gone or has
        changed.
        """
        start, end, _ = self._index[number].tolist()
        if end < 0:
            message = f"{self.where(number)}: broken or cut short from here on"
            raise BadData("cut short", message)
        check_size(end - start, self.where(number))
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
        """The parts of the index: at least one, none of them empty."""
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
                f"{self.path}: was changed while it was in use; restart without changing it"
            )


def open_data(path: Path) -> BinaryIO:
    """Opens a data file. Raises UserError if that fails."""
    try:
        return open_regular(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def bytes_of(paths: Iterable[Path]) -> int:
    """The total size of data files. Raises UserError if one is gone."""
    return sum(_size(path) for path in paths)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def skip_bom(file: BinaryIO) -> int:
    """Seeks to the start of the text, after any byte order mark; returns the position."""
    start = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    return file.seek(start)
