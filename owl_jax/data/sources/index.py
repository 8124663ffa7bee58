"""Where the records of a large text file lie, found once.

A scan goes through the file from front to back and says of each record where it begins, where it
ends and on which line. The index is an array int64[N, 3] of (start, end, line) for N records, in
bytes and in lines counted from 1. A negative end says that what begins at the start is broken, and
where it would end cannot be told.

With an `index_dir` the index is a file there that is mapped into memory: the next run finds it, and
so does every other process of this one. Its name depends on path, size and time of change of the
data, so that a changed file is indexed anew.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from owl_jax.errors import BadData, UserError

# Of the array and of what the scans find. A new number makes every index anew.
_VERSION = 1

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
            self._state = _state(file)
        _ = self._index

    def __len__(self) -> int:
        return len(self._index)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_index"}

    def where(self, number: int) -> str:
        """What messages call a record: "FILE:LINE"."""
        return f"{self.path}:{self._index[number, 2]}"

    def read(self, number: int) -> bytes:
        """The bytes of a record; any number of threads may read at once.

        Raises BadData for a broken one, UserError where the file is gone or has changed.
        """
        start, end, line = self._index[number].tolist()
        if end < 0:
            message = f"{self.path}:{line}: broken or cut short from here on"
            raise BadData("cut short", message)
        with open_data(self.path) as file:
            self._check(file)
            return os.pread(file.fileno(), end - start, start)

    @cached_property
    def _index(self) -> np.ndarray:
        if self._index_dir is None:
            return np.concatenate(list(self._find()))
        kept = self._index_dir / f"{self.path.name[:40]}.{self._digest()}.npy"
        try:
            return _map(kept)
        except (OSError, ValueError, EOFError):
            pass  # there is none, or a damaged one
        try:
            _save(kept, self._find())
        except OSError as error:
            raise UserError(
                f"{kept}: the index of {self.path} cannot be written ({error.strerror})"
            ) from None
        return _map(kept)

    def _digest(self) -> str:
        key = (_VERSION, self._name, str(self.path.resolve()), *self._state)
        return hashlib.sha256(repr(key).encode("utf-8", "backslashreplace")).hexdigest()[:16]

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
        if _state(file) != self._state:
            raise UserError(
                f"{self.path}: was changed while it was in use; leave it alone and start again"
            )


def open_data(path: Path) -> BinaryIO:
    """A file of the user's, open for reading. Raises UserError where that fails."""
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def skip_bom(file: BinaryIO) -> int:
    """Goes to where the text of a file begins, behind a byte order mark; the position."""
    start = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    return file.seek(start)


def _state(file: BinaryIO) -> tuple[int, int]:
    """Size and time of the last change, in nanoseconds."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _map(path: Path) -> np.ndarray:
    # Not as np.memmap, which takes several times as long to give a row.
    return np.load(path, mmap_mode="r").view(np.ndarray)


def _save(path: Path, parts: Iterator[np.ndarray]) -> None:
    """Writes the parts as one array, under another name until it is whole.

    Several processes may do so at once: the last to finish replaces what is the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            _write_header(file, 0)
            count = 0
            for part in parts:
                file.write(part.astype(np.int64).tobytes())
                count += len(part)
            file.seek(0)
            _write_header(file, count)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_header(file: BinaryIO, count: int) -> None:
    """The head of a .npy file, in which NumPy leaves room for the count to grow."""
    descr = npy.dtype_to_descr(np.dtype(np.int64))
    npy.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (count, 3)})
