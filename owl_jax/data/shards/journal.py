"""What a run of prepare has done so far, so that it can be killed at any moment and go on.

progress.jsonl begins with what is made of what, and has a line for each shard that is finished. A
shard is finished when its line is there in full; only then does it take its name, so that a file
data-*.array_record is never a part of one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from owl_jax.data.drops import Dropped
from owl_jax.data.shards.manifest import JOURNAL_FILE, Shard
from owl_jax.errors import UserError

SKIPPED_FILE = "skipped.jsonl"


class Journal:
    """The journal of one target, open for writing; a context manager.

    Attributes:
      shards: those that are finished.
      next_index: the first record of the source that is not in them, nor skipped before it.
      skipped: how many records before that were skipped, by reason.
    """

    def __init__(self, target: Path, header: Mapping[str, Any]):
        """Begins the journal of the directory `target`, or goes on with an earlier run's.

        header: what is made of what, as JSON would give it back.

        Raises UserError where the earlier run's was another, where another process is writing, or
        where a finished shard is gone; OSError where the files cannot be written.
        """
        self._target = target
        self.shards: list[Shard] = []
        self.next_index = 0
        self.skipped: Counter[str] = Counter()
        self._file = (target / JOURNAL_FILE).open("a+b", buffering=0)
        lock(self._file, target)
        lines = self._whole_lines()
        if not lines:
            self._append(header)
        elif lines[0] != header:
            raise UserError(
                f"{target}: the source has changed since it was begun ({lines[0]}, now {header}); "
                "give --restart"
            )
        skipped_bytes = 0
        for line in lines[1:]:
            self.shards.append(Shard(**line["shard"]))
            self.next_index, skipped_bytes = line["next_index"], line["skipped_bytes"]
            self.skipped = Counter(line["skipped"])
        self._check_shards()
        self._skipped_file = (target / SKIPPED_FILE).open("ab", buffering=0)
        # What was skipped after the last finished shard comes again.
        self._skipped_file.truncate(skipped_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._skipped_file.close()
        self._file.close()

    def skip(self, dropped: Dropped) -> None:
        """Lists a record that is not going to be in a shard."""
        self.skipped[dropped.reason] += 1
        line = {"where": dropped.where, "reason": dropped.reason, "message": dropped.message}
        _write_line(self._skipped_file, line)

    def finish_shard(self, shard: Shard, part: Path, next_index: int) -> None:
        """Takes the file `part` as a shard, for good.

        next_index: all records of the source before it are in shards, or skipped.
        """
        os.fsync(self._skipped_file.fileno())
        line = {
            "shard": asdict(shard),
            "next_index": next_index,
            "skipped": self.skipped,
            "skipped_bytes": os.fstat(self._skipped_file.fileno()).st_size,
        }
        self._append(line)
        part.replace(self._target / shard.name)
        self.shards.append(shard)
        self.next_index = next_index

    def _whole_lines(self) -> list[dict[str, Any]]:
        """What the file says; a line that was being written when the run was killed is cut off."""
        self._file.seek(0)
        whole, _, _ = self._file.read().rpartition(b"\n")
        self._file.truncate(len(whole) + 1 if whole else 0)
        return [json.loads(line) for line in whole.splitlines()]

    def _append(self, line: Mapping[str, Any]) -> None:
        _write_line(self._file, line)
        os.fsync(self._file.fileno())

    def _check_shards(self) -> None:
        for shard in self.shards:
            path = self._target / shard.name
            part = partial_path(path)
            if not path.exists() and part.exists():
                part.replace(path)  # killed between the line and the renaming
            if not path.exists() or path.stat().st_size != shard.bytes:
                raise UserError(
                    f"{path}: missing or of another size than when it was written; give --restart"
                )


def lock(journal: IO[bytes], target: Path) -> None:
    """Keeps other processes out until the file is closed. Raises UserError where one is in."""
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{target}: another process is writing there; wait for it") from None
    except OSError:
        pass  # some network file systems know no locks


def read_header(target: Path) -> dict[str, Any] | None:
    """What the journal of `target` began with; None where there is none, or none in full."""
    try:
        with (target / JOURNAL_FILE).open("rb") as file:
            line = file.readline()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return json.loads(line) if line.endswith(b"\n") else None


def partial_path(path: Path) -> Path:
    """Where a shard is until it is finished."""
    return path.with_name(f"{path.name}.partial")


def _write_line(file: IO[bytes], values: Mapping[str, Any]) -> None:
    # Half a character, as a file's name may have, becomes what JSON writes for it.
    line = json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    if file.write(line) < len(line):  # not buffered: a disk that is nearly full takes a part
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
