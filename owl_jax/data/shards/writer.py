"""Writes ArrayRecord files one after another, each atomically."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from array_record.python.array_record_module import ArrayRecordWriter

from owl_jax.data.shards.journal import Journal, partial_path
from owl_jax.data.shards.manifest import Shard
from owl_jax.errors import UserError, one_line

# For random access to single records.
_WRITER_OPTIONS = "group_size:1"


class ShardWriter:
    """Writes payloads to shards of at most `shard_bytes`; a context manager.

    On exit an unfinished shard is deleted; a later run writes it again.
    """

    def __init__(self, target: Path, journal: Journal, shard_bytes: int) -> None:
        self._target, self._journal, self._shard_bytes = target, journal, shard_bytes
        self._writer: ArrayRecordWriter | None = None
        self._part = Path()
        self._records = self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            with suppress(RuntimeError):
                self._writer.close()
            with suppress(OSError):
                self._part.unlink()

    def add(self, payload: bytes, index: int) -> None:
        """Adds record `index` of the source. Raises UserError if it cannot be written."""
        if self._records and self._bytes + len(payload) > self._shard_bytes:
            self.finish(index)
        if self._writer is None:
            name = f"data-{len(self._journal.shards):05d}.array_record"
            self._part = partial_path(self._target / name)
        with writing(self._part):
            if self._writer is None:
                self._part.unlink(missing_ok=True)  # opening a FIFO would block
                self._writer = ArrayRecordWriter(str(self._part), _WRITER_OPTIONS)
            self._writer.write(payload)
        self._records += 1
        self._bytes += len(payload)

    def finish(self, next_index: int) -> None:
        """Finishes the open shard, if any; all records before `next_index` are done."""
        if self._writer is None:
            return
        with writing(self._part):
            self._writer.close()
            with self._part.open("rb") as file:
                os.fsync(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            name, size = self._part.name.removesuffix(".partial"), self._part.stat().st_size
            shard = Shard(name, self._records, size, digest)
            self._writer, self._records, self._bytes = None, 0, 0
            self._journal.finish_shard(shard, self._part, next_index)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failure to write (a full disk, no permission) into a UserError."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError is array_record's
        why = error.strerror if isinstance(error, OSError) else one_line(error)
        raise UserError(
            f"{path}: cannot be written ({why}); finished shards are kept: run the command again "
            "to resume"
        ) from None
