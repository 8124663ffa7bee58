"""Reads ArrayRecord files, such as those of `python -m owl_jax.prepare`.

Each entry is a msgpack map in one of the forms of sources/values.py, with the bytes of its images
and videos, and its origin in "where".
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from owl_jax.data.shards.manifest import check_shards, read_manifest
from owl_jax.data.sources.index import bytes_of
from owl_jax.data.sources.record import Record
from owl_jax.data.sources.values import record_from
from owl_jax.errors import BadData, UserError, one_line
from owl_jax.files import check_regular

# For random access by many threads.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_READER_BUFFER = 1 << 15
# There may be thousands of files.
_MOST_OPEN_READERS = 256


@dataclass
class ArrayRecordSource:
    """The entries of one or more ArrayRecord files, in order.

    Files are opened at the first access, or at once if `counts` is not given.

    Args:
      paths: of the files.
      media_root: base of relative paths in entries; prepare writes none.
      counts: the number of entries of each file, if known.

    Raises UserError for a file that is missing or not an ArrayRecord, and if there are no entries.
    """

    paths: Sequence[Path]
    media_root: Path
    counts: Sequence[int] | None = None
    _ends: np.ndarray = field(init=False, repr=False)
    _readers: dict[int, ArrayRecordReader] = field(init=False, repr=False, default_factory=dict)
    _lock: Any = field(init=False, repr=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.counts is None:
            self.counts = [_count(path) for path in self.paths]
        self._ends = np.cumsum(self.counts)
        if not len(self._ends) or self._ends[-1] == 0:
            raise UserError(f"{', '.join(map(str, self.paths[:3]))}: no records")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        file, entry = self._find(index)
        where = self.where(index)
        try:
            (payload,) = self._reader(file).read([entry])
            values = msgpack.unpackb(payload)
        except RuntimeError as error:  # a wrong checksum, or no such entry
            raise BadData("damaged record", f"{where}: {one_line(error)}") from None
        except (ValueError, msgpack.UnpackException) as error:
            raise BadData("malformed record", f"{where}: not msgpack ({error})") from None
        record = record_from(values, where, self.media_root)
        if isinstance(values.get("where"), str):
            record["where"] = values["where"]
        return record

    def where(self, index: int) -> str:
        """FILE:NUMBER, counted from 0. (A record that can be read names its origin instead.)"""
        file, entry = self._find(index)
        return f"{self.paths[file]}:{entry}"

    def num_bytes(self) -> int:
        """Total size of the files."""
        return bytes_of(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _find(self, index: int) -> tuple[int, int]:
        """(index of the file, index of the entry in it)."""
        file = int(np.searchsorted(self._ends, index, side="right"))
        return file, index - (int(self._ends[file - 1]) if file else 0)

    def _reader(self, file: int) -> ArrayRecordReader:
        with self._lock:
            reader = self._readers.pop(file, None) or _open(self.paths[file])
            self._readers[file] = reader  # last, as the most recently used
            if len(self._readers) > _MOST_OPEN_READERS:
                # The reader closes once no thread uses it.
                del self._readers[next(iter(self._readers))]
            return reader


def open_shards(directory: Path) -> ArrayRecordSource:
    """Opens a directory that prepare wrote.

    Raises UserError if it is unfinished or of another version, or if a shard is missing or damaged.
    """
    manifest = read_manifest(directory)
    check_shards(directory, manifest)
    paths = [directory / shard.name for shard in manifest.shards]
    return ArrayRecordSource(paths, directory, [shard.records for shard in manifest.shards])


def _count(path: Path) -> int:
    try:
        check_regular(path)
    except OSError as error:
        why = "no such file" if error.errno == errno.ENOENT else error.strerror
        raise UserError(f"{path}: {why}; expected an ArrayRecord file") from None
    reader = _open(path)
    count = reader.num_records()
    if not reader.ok():
        raise UserError(f"{path}: not an ArrayRecord file, or cut short")
    reader.close()
    return count


def _open(path: Path) -> ArrayRecordReader:
    return ArrayRecordReader(str(path), _READER_OPTIONS, file_reader_buffer_size=_READER_BUFFER)
