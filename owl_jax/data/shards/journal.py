"""What a run of prepare has done so far, so that it can be killed at any moment and go on.

progress.jsonl begins with what is made of what, and has a line for each shard that is finished. A
shard is finished when its line is there in full; only then does it take its name, so that a file
data-*.array_record is never a part of one. Every line holds its own hash (sealed_json.py).
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
from owl_jax.data.shards.manifest import FORMAT, JOURNAL_FILE, Shard
from owl_jax.errors import UserError
from owl_jax.files import NotAFile, check_regular, open_regular
from owl_jax.sealed_json import Damaged, sealed, unsealed

SKIPPED_FILE = "skipped.jsonl"

# Of a journal: whatever is damaged behind it, it is ours.
_BEGINNING = json.dumps({"format": FORMAT}).removesuffix("}").encode()


class Journal:
    """The journal of one target, open for writing; a context manager.

    Attributes:
      shards: those that are finished.
      next_index: the first record of the source that is not in them, nor skipped before it.
      skipped: how many records before that were skipped, by reason.
      noted: how many of the others had something to tell of (shards/payload.py, notes_of).
    """

    def __init__(self, target: Path, header: Mapping[str, Any]):
        """Begins the journal of the directory `target`, or goes on with an earlier run's.

        header: what is made of what, with the source's "fingerprint", as JSON would give it back.

        Raises UserError where the earlier run's was another or is damaged, where another process
        is writing, or where a finished shard is gone; OSError where the files cannot be written.
        """
        self._target = target
        self.shards: list[Shard] = []
        self.next_index = 0
        self.skipped: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self._path = target / JOURNAL_FILE
        self._file = _open_own(self._path, "a+b")
        try:
            lock(self._file, target)
            self._begin({"format": FORMAT, **header})
        except BaseException:
            self._file.close()
            raise

    def _begin(self, first: dict[str, Any]) -> None:
        """Takes over what the file says. first: what its first line has to be."""
        target = self._target
        lines = self._whole_lines()
        if not lines:
            self._append(first)
        elif lines[0] != first:
            names = [name for name in first if lines[0].get(name) != first[name]]
            changes = ", ".join(f"{name} {lines[0].get(name)}, now {first[name]}" for name in names)
            raise UserError(
                f"{target}: the source has changed since it was begun ({changes}); give another "
                "--target, or --restart to throw away what is there"
            )
        skipped_bytes = 0
        for line in lines[1:]:
            self.shards.append(Shard(**line["shard"]))
            self.next_index, skipped_bytes = line["next_index"], line["skipped_bytes"]
            self.skipped = Counter(line["skipped"])
            self.noted = Counter(line.get("noted", {}))
        self._check_shards()
        self._skipped_file = _open_own(target / SKIPPED_FILE, "ab")
        if os.fstat(self._skipped_file.fileno()).st_size < skipped_bytes:
            self._skipped_file.close()
            raise UserError(f"{target / SKIPPED_FILE}: shorter than it was; give --restart")
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
        _write_line(self._skipped_file, dropped.to_json())

    def finish_shard(self, shard: Shard, part: Path, next_index: int) -> None:
        """Takes the file `part` as a shard, for good.

        next_index: all records of the source before it are in shards, or skipped.
        """
        os.fsync(self._skipped_file.fileno())
        line = {
            "shard": asdict(shard),
            "next_index": next_index,
            "skipped": self.skipped,
            "noted": self.noted,
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
        # Not splitlines: damage may have made a line end of any byte.
        lines = whole.split(b"\n") if whole else []
        return [_content(line, self._path, number) for number, line in enumerate(lines, start=1)]

    def _append(self, line: Mapping[str, Any]) -> None:
        _write_line(self._file, json.dumps(sealed(line), ensure_ascii=False))
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
    """Keeps other processes out until the file is closed.

    Raises UserError where one is in, or has finished or deleted this journal after it was opened.
    """
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy(target) from None
    except OSError:
        pass  # some network file systems know no locks
    try:
        is_there = os.path.samestat(os.fstat(journal.fileno()), (target / JOURNAL_FILE).stat())
    except OSError:
        is_there = False
    if not is_there:
        raise busy(target)


def busy(target: Path) -> UserError:
    return UserError(f"{target}: another process is writing there; wait for it")


def read_header(target: Path) -> dict[str, Any] | None:
    """What the journal of `target` began with; None where it is not there in full, or not ours.

    Raises UserError where it is ours, and damaged.
    """
    if not is_begun(target):
        return None
    path = target / JOURNAL_FILE
    with open_regular(path) as file:
        header = _content(file.readline().removesuffix(b"\n"), path, 1)
    if header.pop("format", None) != FORMAT:
        raise _damaged(path, 1)
    return header


def is_begun(target: Path) -> bool:
    """Whether a journal of ours is there, with its first line in full, be it damaged."""
    try:
        with open_regular(target / JOURNAL_FILE) as file:
            start = file.read(len(_BEGINNING))
            return start == _BEGINNING and file.readline().endswith(b"\n")
    except OSError:
        return False


def is_barely_begun(target: Path) -> bool:
    """Whether the journal is the beginning of ours: a run was killed in its first moment."""
    try:
        with open_regular(target / JOURNAL_FILE) as file:
            data = file.read()
    except OSError:
        return False
    return b"\n" not in data and (data.startswith(_BEGINNING) or _BEGINNING.startswith(data))


def partial_path(path: Path) -> Path:
    """Where a shard is until it is finished."""
    return path.with_name(f"{path.name}.partial")


def _content(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """What a line says. Raises UserError for anything but what was written."""
    try:
        values, is_sealed = unsealed(json.loads(line.decode()), "line")
    except (Damaged, ValueError, RecursionError):
        raise _damaged(path, number) from None
    if not is_sealed:
        raise _damaged(path, number)
    return values


def _damaged(path: Path, number: int) -> UserError:
    return UserError(
        f"{path}, line {number}: damaged, or of an older owl_jax, so it cannot be gone on with; "
        "give --restart to throw away what is there and begin again"
    )


def _open_own(path: Path, mode: str) -> IO[bytes]:
    """A file of ours, made if it is missing. Raises OSError, and UserError for a FIFO or the like.

    Opening a FIFO would wait for its reader.
    """
    try:
        check_regular(path)
    except NotAFile as error:
        raise UserError(f"{path}: {error.strerror}; move it away") from None
    except FileNotFoundError:
        pass
    return path.open(mode, buffering=0)


def _write_line(file: IO[bytes], text: str) -> None:
    # Half a character, as a file's name may have, becomes what JSON writes for it.
    line = text.encode("utf-8", "backslashreplace") + b"\n"
    if file.write(line) < len(line):  # not buffered: a disk that is nearly full takes a part
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
