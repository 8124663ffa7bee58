"""Indexes the members of a tar; an `index_dir` keeps the index (sources/kept_index.py)."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from owl_jax.data.sources.index import open_data
from owl_jax.data.sources.kept_index import index_file, keep_index, map_index, state_of
from owl_jax.data.sources.samples import (
    is_sample_file,
    keys_of,
    keys_of_others,
    may_hold_medium,
)
from owl_jax.errors import UserError
from owl_jax.files import open_regular

# Stands for a sample's number in the last row of the index if the tar is cut short.
CUT = -1

# A new number invalidates every stored index.
_VERSION = 4


def index_tar(path: Path, index_dir: Path | None) -> Path | np.ndarray:
    """Indexes the headers of every sample's members.

    Returns int64[n, 2], or its file in `index_dir`: (header offset, number of the sample) of each
    member, sorted by sample. If the tar is cut short, the last row is (first missing byte, CUT).

    Raises UserError for a file that is missing or not a tar, and if the index cannot be written.
    """
    if index_dir is None:
        return _scan(path)
    with open_data(path) as file:
        kept = index_file(index_dir, path, state_of(file), _VERSION, "tar")
    keep_index(kept, path, 2, lambda: iter([_scan(path)]))
    return kept


def load_index(index: Path | np.ndarray) -> np.ndarray:
    """The array of an index, memory-mapped if it is in a file."""
    return map_index(index) if isinstance(index, Path) else index


def count_samples(index: np.ndarray) -> int:
    """The number of samples; everything that is cut off counts as one."""
    is_cut = len(index) > 0 and index[-1, 1] == CUT
    numbers = index[:-1, 1] if is_cut else index[:, 1]
    return (int(numbers[-1]) + 1 if len(numbers) else 0) + int(is_cut)


def is_readable(member: tarfile.TarInfo) -> bool:
    """Whether a member's bytes are contiguous in the tar: not a link, device or sparse file."""
    return member.isreg() and not member.issparse()


def _scan(path: Path) -> np.ndarray:
    names: list[str] = []  # of members that may belong to samples
    offsets: list[int] = []
    others: list[str] = []  # names of unread members that may hold the medium of a text
    other_offsets: list[int] = []
    lost: tarfile.TarInfo | None = None
    try:
        with open_regular(path) as file:
            for member, is_whole in _members(file):
                if not is_whole:
                    lost = member
                if is_sample_file(member.name) and is_readable(member):
                    names.append(member.name)
                    offsets.append(member.offset)
                elif is_whole and may_hold_medium(member.name):
                    others.append(member.name)
                    other_offsets.append(member.offset)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except tarfile.TarError as error:
        raise UserError(
            f"{path}: not a tar ({error}); a compressed one must be decompressed first"
        ) from None
    keys = keys_of(names)
    numbers: dict[str, int] = {}
    for key in keys:
        numbers.setdefault(key, len(numbers))
    rows = [(offset, numbers[key]) for offset, key in zip(offsets, keys, strict=True)]
    if lost is not None and offsets and offsets[-1] == lost.offset:
        # If the lost member belongs to the last sample, that sample is lost too.
        _, last = rows.pop()
        if last == len(numbers) - 1:
            rows = [row for row in rows if row[1] != last]
    known = {number for _, number in rows}
    rows += [
        (offset, numbers[key])
        for offset, key in zip(other_offsets, keys_of_others(others, names), strict=True)
        if key is not None and numbers[key] in known
    ]
    index = np.asarray(rows, np.int64).reshape(-1, 2)
    index = index[np.argsort(index[:, 1], kind="stable")]
    return index if lost is None else np.concatenate([index, [(lost.offset, CUT)]])


def _members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, bool]]:
    """(member, whether it is complete) of all members but folders.

    If the tar is cut short, its last member is incomplete, and nameless if its header is missing.
    Raises tarfile.TarError if the file does not begin like a tar.
    """
    size = file.seek(0, os.SEEK_END)
    position = 0
    while True:
        member = None
        file.seek(position)
        try:
            # A new TarFile each time, because it would keep all members in memory.
            tar = tarfile.TarFile(fileobj=file)
            member = tar.next()
        except tarfile.TarError:
            if not position:
                raise
        if member is None:
            break
        position = tar.offset
        if not member.isdir():
            is_whole = not is_readable(member) or member.offset_data + member.size <= size
            yield member, is_whole
            if not is_whole:
                return
    # next() stops at anything that is not a header; only a block of zeros ends a tar.
    file.seek(position)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        lost = tarfile.TarInfo()
        lost.offset = position
        yield lost, False
