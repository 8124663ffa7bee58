"""Questions as tokens, in a model's own conversation format.

Letters: L tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import LETTERS, Medium, Mode, Question
from owl_jax.inference.api import Owl
from owl_jax.text.conversation import tokenize_prompt
from owl_jax.text.messages import prompt_from_messages
from owl_jax.text.tokenizer import Tokenizer

_MARK = re.compile(r"<(?=image>|\|video\|>)")
_TURN = re.compile(r"\n(?=(?:Human|AI):)")


@dataclass(frozen=True)
class Asking:
    """One question to a model.

    id: the item's.
    choices: texts of the options, for the modes `letter` and `rank`.
    history: earlier questions of the conversation, with the model's answers to them.
    """

    id: str
    question: Question
    choices: tuple[str, ...] = ()
    history: tuple[tuple[Question, str], ...] = ()

    @property
    def media(self) -> tuple[Medium, ...]:
        """All pictures and videos, in the order of the conversation."""
        questions = [*(question for question, _ in self.history), self.question]
        return tuple(part for q in questions for part in q.parts if isinstance(part, Medium))


@dataclass(frozen=True, eq=False)  # arrays have no truth value
class Prompt:
    """An asking as tokens, without pixels.

    ids: int32[L], negative at media.
    continuations: in the mode `rank` the tokens of each choice after `ids`; in `letter` the tokens
      that may be each choice's letter; otherwise empty.
    """

    ids: np.ndarray
    continuations: tuple[tuple[int, ...], ...] = ()


def tokenize(owl: Owl, asking: Asking, mode: Mode, num_frames: int) -> Prompt:
    """The tokens of an asking; the answer begins with its `answer_start`, as in training.

    Raises UserError for a question that the model's conversation format cannot express, and for
    choices that have no tokens.
    """
    text = _conversation(asking)
    lengths = owl.config.media_lengths(num_frames)

    def ids_with(more: str) -> list[int]:
        ids = tokenize_prompt(
            text + _plain(asking.question.answer_start + more),
            owl.tokenizer,
            lengths,
            as_trained=owl.as_trained,
            max_length=owl.config.llm.max_length,
            format=owl.format,
        )
        return [int(id) for id in ids]

    prompt = ids_with("")
    if mode == "generate":
        return Prompt(np.asarray(prompt, np.int32))
    if not asking.choices:
        raise UserError(f"question {asking.id} has no choices; --mode={mode} needs them")
    if mode == "letter":
        start, continuations = _letters(owl.tokenizer, LETTERS[: len(asking.choices)], ids_with)
        return Prompt(np.asarray(start, np.int32), continuations)
    whole = [ids_with(choice) for choice in asking.choices]
    # The last token before a choice may be another one with it.
    shared = _shared([prompt, *whole])
    for letter, choice, ids in zip(LETTERS, asking.choices, whole, strict=False):
        if len(ids) == shared:
            raise UserError(
                f"question {asking.id}: choice {letter} is {shown(choice)}; --mode=rank needs a "
                "text"
            )
    return Prompt(np.asarray(prompt[:shared], np.int32), tuple(tuple(x[shared:]) for x in whole))


def _letters(
    tokenizer: Tokenizer, letters: str, ids_with: Callable[[str], list[int]]
) -> tuple[list[int], tuple[tuple[int, ...], ...]]:
    """The prompt, and the tokens that may begin the answer of each letter.

    A tokenizer may write a letter as "A" or as " A", and a model may prefer either.
    """
    whole = [ids_with(letter) for letter in letters]
    shared = min(_shared(whole), min(map(len, whole)) - 1)
    prompt = whole[0][:shared]
    found = []
    for letter, ids in zip(letters, whole, strict=True):
        tokens = {ids[shared]}
        spaced = ids_with(f" {letter}")
        if spaced[:shared] == prompt and len(spaced) > shared:
            token = spaced[shared]
            if tokenizer.token_bytes(token).strip() == letter.encode():
                tokens.add(token)
        found.append(tuple(sorted(tokens)))
    if len(set().union(*found)) < sum(map(len, found)):
        raise UserError(
            f"the model's tokenizer begins some of the letters {letters} with the same token; "
            "choose --mode=generate or --mode=rank"
        )
    return prompt, tuple(found)


def _conversation(asking: Asking) -> str:
    """The conversation in mPLUG-Owl's format, up to where the answer begins."""
    messages: list[dict[str, Any]] = []
    for question, answer in asking.history:
        messages.append({"role": "user", "content": _parts(question)})
        messages.append({"role": "assistant", "content": _plain(question.answer_start + answer)})
    messages.append({"role": "user", "content": _parts(asking.question)})
    return prompt_from_messages(messages, margins=True)


def _parts(question: Question) -> list[dict[str, str]]:
    return [
        {"type": part.kind} if isinstance(part, Medium) else {"type": "text", "text": _plain(part)}
        for part in question.parts
    ]


def _plain(text: str) -> str:
    """The text without what would be a medium or a turn in mPLUG-Owl's format."""
    return _TURN.sub("\n ", _MARK.sub("< ", text))


def _shared(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences have at the beginning."""
    columns = zip(*sequences, strict=False)
    return next(
        (index for index, ids in enumerate(columns) if len(set(ids)) > 1),
        min(map(len, sequences)),
    )
