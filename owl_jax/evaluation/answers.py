"""Files of answers: appended as they come, so that a run that is killed goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """A model's answer to a question.

    answer: raw text; in the modes `letter` and `rank` the letter of the choice.
    key: hash of the model, the prompt's tokens, its media and the settings.
    losses: in `rank` and `letter`, of each choice, in nats; otherwise empty.
    """

    id: str
    answer: str
    key: str
    losses: tuple[float, ...] = ()


def read_answers(directory: Path) -> dict[str, Answer]:
    """The answers of all processes in an output directory, by id. Raises UserError."""
    raise NotImplementedError


def claim(directory: Path, run: Mapping[str, str]) -> None:
    """Makes the directory this run's. Raises UserError if it is another's, naming what differs."""
    raise NotImplementedError
