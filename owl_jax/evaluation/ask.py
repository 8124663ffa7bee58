"""Asks a model questions: prompts, batches, kills and several processes are handled here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from owl_jax.evaluation.answers import Answer
from owl_jax.evaluation.benchmark import Mode, Question
from owl_jax.inference.api import Owl
from owl_jax.inference.arguments import NUM_FRAMES


@dataclass(frozen=True)
class Asking:
    """One question to a model.

    id: the item's.
    choices: texts of the options, for the modes `letter` and `rank`.
    history: earlier questions of the conversation with the model's answers to them.
    """

    id: str
    question: Question
    choices: tuple[str, ...] = ()
    history: tuple[tuple[Question, str], ...] = ()


@dataclass(frozen=True)
class Settings:
    """How a model is asked.

    mode: "generate": the answer is what the model writes. "letter": the letter of a choice that is
      the likeliest next token. "rank": the letter of the choice with the least loss, which is the
      sum of the negative log-likelihoods of its tokens.
    max_new_tokens: of an answer that is generated.
    num_frames: that the model sees of each video.
    temperature, seed: 0 is greedy decoding.
    """

    mode: Mode = "generate"
    max_new_tokens: int = 32
    num_frames: int = NUM_FRAMES
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a run of `ask` leaves behind.

    answers: of all processes so far, by id, in the order of the questions.
    missing: {id: file} of the questions whose picture or video is not there.
    failed: {id: reason} of the questions that this process could not answer: asked again next time.
    """

    answers: Mapping[str, Answer]
    missing: Mapping[str, str]
    failed: Mapping[str, str]


@dataclass(frozen=True)
class Progress:
    """total: questions of this process; earlier: answered by earlier runs; answered: by now."""

    total: int
    earlier: int
    answered: int


def ask(
    owl: Owl,
    askings: Sequence[Asking],
    settings: Settings,
    directory: Path,
    run: Mapping[str, str],
    *,
    shard_index: int = 0,
    num_shards: int = 1,
    threads: int = 4,
    num_rows: int | None = None,
    row_length: int | None = None,
    tell: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Answers what has no answer in `directory` yet; question i is process i mod n's.

    run: what this run is, by name, such as {"benchmark": ..., "data": ..., "template": ...}; the
      model, the mode and the other settings are added.
    tell: called after each answer; by default progress goes to stderr.

    Raises UserError if the directory is another run's, if a question's media suit no model of this
    kind, if more than 1 % of the media are missing, and for questions without choices where the
    mode needs them.
    """
    raise NotImplementedError
