"""An index of a large file, kept as a file of its own for the next run and for other processes.

It is an array int64[N, columns], mapped into memory. Its name depends on path, size and time of
change of the data, so that changed data is indexed anew. The file is a .npy, and behind the array
is the SHA-256 of all that is before it: a wrong position would give records that nobody wrote.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from absl import logging
from numpy.lib import format as npy

from owl_jax.errors import UserError, printable
from owl_jax.files import open_regular

State = tuple[int, int]

# Of the file: a new number gives every index another name.
_FORMAT = 2

_BUFFER = 1 << 20  # bytes that are hashed at once


def state_of(file: BinaryIO) -> State:
    """Size and time of the last change, in nanoseconds."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def index_file(directory: Path, data: Path, state: State, *kind: object) -> Path:
    """Where the index of `data` is kept. kind: what else decides what is in it."""
    key = (_FORMAT, *kind, str(data.resolve()), *state)
    digest = hashlib.sha256(repr(key).encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return directory / f"{data.name[:40]}.{digest}.npy"


def keep_index(
    path: Path, data: Path, columns: int, find: Callable[[], Iterator[np.ndarray]]
) -> None:
    """Sees to it that a whole index is kept: one that is missing or damaged is made anew.

    A damaged one is said to be so in one line. To notice it, the whole file is read.

    Args:
      path: of the index; its directory is made if need be.
      data: what it is an index of, for messages.
      find: gives the parts of the index, int64[n, columns], in order.

    Raises UserError where it cannot be written, and whatever `find` raises.
    """
    if os.path.lexists(path):
        if _is_whole(path, columns):
            return
        logging.warning("%s: damaged; the index of %s is made anew", *map(_said, (path, data)))
    try:
        _save(path, columns, find())
    except OSError as error:
        raise UserError(
            f"{path}: the index of {data} cannot be written ({error.strerror})"
        ) from None


def map_index(path: Path) -> np.ndarray:
    """The index that `keep_index` has seen to. Nothing is checked, so that it may be called often.

    Raises OSError, ValueError or EOFError where it is not whole.
    """
    # Not as np.memmap, which takes several times as long to give a row.
    return np.load(path, mmap_mode="r").view(np.ndarray)


def _is_whole(path: Path, columns: int) -> bool:
    """Whether the index is there as it was written."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            left = os.fstat(file.fileno()).st_size - digest.digest_size
            while left > 0 and (block := file.read(min(left, _BUFFER))):
                digest.update(block)
                left -= len(block)
            if left or file.read() != digest.digest():
                return False
        index = map_index(path)
    except (OSError, ValueError, EOFError):
        return False
    return index.ndim == 2 and index.shape[1] == columns


def _said(path: Path) -> str:
    return printable(str(path))


def _save(path: Path, columns: int, parts: Iterator[np.ndarray]) -> None:
    """Writes the parts as one array, under another name until it is whole.

    Several processes may do so at once: the last to finish replaces what is the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with unfinished.open("x+b") as file:
            _write_header(file, 0, columns)
            count = 0
            for part in parts:
                file.write(part.astype(np.int64).tobytes())
                count += len(part)
            file.seek(0)
            _write_header(file, count, columns)
            file.seek(0)
            file.write(hashlib.file_digest(file, "sha256").digest())
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_header(file: IO[bytes], count: int, columns: int) -> None:
    """The head of a .npy file, in which NumPy leaves room for the count to grow."""
    descr = npy.dtype_to_descr(np.dtype(np.int64))
    shape = (count, columns)
    npy.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
