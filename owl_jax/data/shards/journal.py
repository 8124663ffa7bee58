"""The journal of a run of prepare, which can be killed at any moment and resumed.

progress.jsonl begins with a header (source and options) and has a line for each finished shard. A
shard is renamed to data-*.array_record only after its line is complete, so such a file is never
partial. Every line holds its own hash (sealed_json.py).
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

# Identifies a journal of prepare, even if the rest is damaged.
_BEGINNING = json.dumps({"format": FORMAT}).removesuffix("}").encode()


class Journal:
    """The journal of one target, open for writing; a context manager.

    Attributes:
      shards: finished shards.
      next_index: source index of the first record that is neither in a shard nor skipped.
      skipped: number of records skipped before it, by reason.
      noted: number of kept records with each note (shards/payload.py, notes_of).
    """

    def __init__(self, target: Path, header: Mapping[str, Any]):
        """Creates the journal of the directory `target`, or resumes an earlier run's.

        header: source, its "fingerprint" and options, as JSON values.

        Raises UserError if the earlier header differs, the journal is damaged, another process is
        writing, or a finished shard is gone; OSError if the files cannot be written.
        """
        self._target = target
        self.shards: list[Shard] = []
        self.next_index = 0
        self.skipped: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self._path = target / JOURNAL_FILE
        self._file = _open_or_create(self._path, "a+b")
        try:
            lock(self._file, target)
            self._begin({"format": FORMAT, **header})
        except BaseException:
            self._file.close()
            raise

    def _begin(self, first: dict[str, Any]) -> None:
        """Restores the state from the file. first: the expected first line."""
        target = self._target
        lines = self._whole_lines()
        if not lines:
            self._append(first)
        elif lines[0] != first:
            names = [name for name in first if lines[0].get(name) != first[name]]
            changes = ", ".join(f"{name} {lines[0].get(name)}, now {first[name]}" for name in names)
            raise UserError(
                f"{target}: the source has changed since the first run ({changes}); give another "
                "--target, or --restart to delete this one"
            )
        skipped_bytes = 0
        for line in lines[1:]:
            self.shards.append(Shard(**line["shard"]))
            self.next_index, skipped_bytes = line["next_index"], line["skipped_bytes"]
            self.skipped = Counter(line["skipped"])
            self.noted = Counter(line.get("noted", {}))
        self._check_shards()
        self._skipped_file = _open_or_create(target / SKIPPED_FILE, "ab")
        if os.fstat(self._skipped_file.fileno()).st_size < skipped_bytes:
            self._skipped_file.close()
            raise UserError(f"{target / SKIPPED_FILE}: shorter than it was; give --restart")
        # Records skipped after the last finished shard are read again.
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
        """Lists a record that is left out of the shards."""
        self.skipped[dropped.reason] += 1
        _write_line(self._skipped_file, dropped.to_json())

    def finish_shard(self, shard: Shard, part: Path, next_index: int) -> None:
        """Records the finished file `part` in the journal, then renames it to its shard name.

        next_index: index of the first source record that is neither in a shard nor skipped.
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
        """Reads the complete lines; truncates a last line that a kill cut short."""
        self._file.seek(0)
        whole, _, _ = self._file.read().rpartition(b"\n")
        self._file.truncate(len(whole) + 1 if whole else 0)
        # Not splitlines: damage may have created other line separators.
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
                part.replace(path)  # killed between writing the line and renaming
            if not path.exists() or path.stat().st_size != shard.bytes:
                raise UserError(f"{path}: missing, or its size has changed; give --restart")


def lock(journal: IO[bytes], target: Path) -> None:
    """Locks the journal until the file is closed.

    Raises UserError if another process holds the lock, or deleted this journal (it finished or
    restarted) after it was opened.
    """
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy(target) from None
    except OSError:
        pass  # some network file systems do not support locks
    try:
        is_there = os.path.samestat(os.fstat(journal.fileno()), (target / JOURNAL_FILE).stat())
    except OSError:
        is_there = False
    if not is_there:
        raise busy(target)


def busy(target: Path) -> UserError:
    """The error for a target that another process writes to."""
    return UserError(f"{target}: another process is writing there; wait for it")


def read_header(target: Path) -> dict[str, Any] | None:
    """The header of the journal of `target`; None if it is incomplete or not written by prepare.

    Raises UserError if prepare wrote it but it is damaged.
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
    """Whether prepare wrote a journal here with a complete first line, even a damaged one."""
    try:
        with open_regular(target / JOURNAL_FILE) as file:
            start = file.read(len(_BEGINNING))
            return start == _BEGINNING and file.readline().endswith(b"\n")
    except OSError:
        return False


def is_barely_begun(target: Path) -> bool:
    """Whether the journal ends within its first line: a run was killed right after its start."""
    try:
        with open_regular(target / JOURNAL_FILE) as file:
            data = file.read()
    except OSError:
        return False
    return b"\n" not in data and (data.startswith(_BEGINNING) or _BEGINNING.startswith(data))


def partial_path(path: Path) -> Path:
    """The path of a shard until it is finished."""
    return path.with_name(f"{path.name}.partial")


def _content(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """The content of a line. Raises UserError if it has changed since it was written."""
    try:
        values, is_sealed = unsealed(json.loads(line.decode()), "line")
    except (Damaged, ValueError, RecursionError):
        raise _damaged(path, number) from None
    if not is_sealed:
        raise _damaged(path, number)
    return values


def _damaged(path: Path, number: int) -> UserError:
    return UserError(
        f"{path}, line {number}: damaged, or written by an older owl_jax, so the run cannot be "
        "resumed; give --restart to delete the target and begin again"
    )


def _open_or_create(path: Path, mode: str) -> IO[bytes]:
    """Opens or creates a file. Raises UserError for a FIFO, which would block, and OSError."""
    try:
        check_regular(path)
    except NotAFile as error:
        raise UserError(f"{path}: {error.strerror}; move it away") from None
    except FileNotFoundError:
        pass
    return path.open(mode, buffering=0)


def _write_line(file: IO[bytes], text: str) -> None:
    # File names may hold lone surrogates; write them as JSON escapes.
    line = text.encode("utf-8", "backslashreplace") + b"\n"
    if file.write(line) < len(line):  # unbuffered: a nearly full disk writes only a part
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
