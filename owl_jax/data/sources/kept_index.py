"""Stores the index of a large file on disk, for later runs and other processes.

The index is an array int64[N, columns], memory-mapped. The file name depends on the path, size and
modification time of the data, so changed data is indexed again. The file is a .npy followed by the
SHA-256 of everything before it, because a wrong offset would yield garbage records.
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

# Part of the file name; a new number invalidates every stored index.
_FORMAT = 2

_BUFFER = 1 << 20  # bytes to hash at a time


def state_of(file: BinaryIO) -> State:
    """Size, and modification time in nanoseconds."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def index_file(directory: Path, data: Path, state: State, *kind: object) -> Path:
    """The path of the index of `data`. kind: whatever else determines its content."""
    key = (_FORMAT, *kind, str(data.resolve()), *state)
    digest = hashlib.sha256(repr(key).encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return directory / f"{data.name[:40]}.{digest}.npy"


def keep_index(
    path: Path, data: Path, columns: int, find: Callable[[], Iterator[np.ndarray]]
) -> None:
    """Writes the index unless an intact one exists; a damaged one is replaced with a warning.

    Args:
      path: of the index; its directory is created if needed.
      data: the indexed file, for messages.
      find: yields the parts of the index, int64[n, columns], in order.

    Raises UserError if it cannot be written, and whatever `find` raises.
    """
    if os.path.lexists(path):
        if _is_whole(path, columns):
            return
        names = [printable(str(name)) for name in (path, data)]
        logging.warning("%s: damaged; the index of %s is rebuilt", *names)
    try:
        _save(path, columns, find())
    except OSError as error:
        raise UserError(
            f"{path}: the index of {data} cannot be written ({error.strerror})"
        ) from None


def map_index(path: Path) -> np.ndarray:
    """Maps the index that `keep_index` wrote, without verifying it, so calls are cheap.

    Raises OSError, ValueError or EOFError if it is damaged.
    """
    # A plain array, since reading a row of np.memmap takes several times as long.
    return np.load(path, mmap_mode="r").view(np.ndarray)


def _is_whole(path: Path, columns: int) -> bool:
    """Whether the index exists and matches its hash."""
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


def _save(path: Path, columns: int, parts: Iterator[np.ndarray]) -> None:
    """Writes the parts as one array, under a temporary name until it is complete.

    Several processes may do so at once: the last one replaces an identical file.
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
    """Writes the header of a .npy file, in which NumPy leaves room for the count to grow."""
    descr = npy.dtype_to_descr(np.dtype(np.int64))
    shape = (count, columns)
    npy.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
