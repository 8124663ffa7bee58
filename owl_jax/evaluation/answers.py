"""Files of answers: appended as they come, so that a run that is killed goes on.

An output directory has `run.json`, which says whose answers it has, and answers*.jsonl. Each
process appends to a file of its own: answers.jsonl, or answers-00001-of-00004.jsonl for the second
of four. All files count, whatever the number of processes that wrote them.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from owl_jax.errors import UserError, shown
from owl_jax.files import beside, open_regular, read_json, write_whole

RUN = "run.json"


class Answer(Struct, frozen=True, omit_defaults=True):
    """A model's answer to a question.

    answer: raw text; in the modes `letter` and `rank` the letter of the choice.
    key: hash of the model, the prompt's tokens, its media and the settings.
    losses: in `letter` and `rank`, of each choice, in nats; otherwise empty.
    """

    id: str
    answer: str
    key: str
    losses: tuple[float, ...] = ()


def read_answers(directory: Path) -> dict[str, Answer]:
    """The newest answer to each question, of all processes.

    An incomplete last line, which a process is writing or was killed at, is left out. Raises
    UserError for a line that is no answer.
    """
    found: dict[str, Answer] = {}
    for path in sorted(directory.glob("answers*.jsonl"), key=_age):
        found |= {answer.id: answer for answer in _read(path)}
    return found


def answers_file(directory: Path, shard_index: int, num_shards: int) -> Path:
    """The file that a process appends to."""
    part = f"-{shard_index:05d}-of-{num_shards:05d}" if num_shards > 1 else ""
    return directory / f"answers{part}.jsonl"


@contextmanager
def appending(path: Path) -> Iterator[AnswersFile]:
    """Opens a process's file, without an incomplete last line. Raises UserError if another process
    writes it."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{path}: another process is writing it; wait for it") from None
        whole = path.read_bytes().rfind(b"\n") + 1
        os.ftruncate(file.fileno(), whole)
        yield AnswersFile(file)


class AnswersFile:
    """Appends answers to a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, answer: Answer) -> None:
        """Writes one line, which other processes see at once."""
        self._file.write(msgspec.json.encode(answer) + b"\n")
        self._file.flush()


def claim(directory: Path, run: Mapping[str, str]) -> None:
    """Makes the directory this run's. Raises UserError if it is another's, naming what differs."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--output={directory} is a file; expected a directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / RUN
        if not path.exists():
            _write_once(path, dict(run))
    except OSError as error:
        raise UserError(f"--output={directory}: {error.strerror or error}") from None
    found = read_json(path)
    for name in {**run, **found}:
        if found.get(name) != run.get(name):
            raise UserError(
                f"--output={directory} has another run's answers: {name} is "
                f"{shown(found.get(name))} there, {shown(run.get(name))} here; give another "
                "directory"
            )


def _write_once(path: Path, values: dict[str, str]) -> None:
    """Writes a JSON file, completely or not at all, unless another process has just done it."""
    partial = beside(path)
    write_whole(partial, json.dumps(values, indent=2) + "\n")
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links, such as a mounted bucket
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path) -> Iterator[Answer]:
    decoder = msgspec.json.Decoder(Answer)
    with open_regular(path) as file:
        lines = file.read().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            yield decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: line {number}: {error}; it is no file of answers: give another --output"
            ) from None


def _age(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime, path.name
