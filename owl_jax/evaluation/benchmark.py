"""The interface of a benchmark: its items, what a model is asked, how its answers are scored."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from owl_jax.errors import UserError, shown

T = TypeVar("T")

Kind = Literal["yes_no", "choice", "short_answer", "caption", "judged"]
Mode = Literal["generate", "rank", "letter"]

_MARK = re.compile("(<image>|<video>)")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Medium:
    """A picture or a video, not decoded yet.

    source: a file, a folder of frames, the bytes of a file, or the frames of a video as files or
      their bytes.
    start, end: seconds of a video; None: from its beginning, to its end.
    """

    kind: Literal["image", "video"]
    source: Path | bytes | tuple[Path | bytes, ...]
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Item:
    """One thing that is asked and scored.

    id: unique in the benchmark, and the same as in files of answers.
    question: the benchmark's own text, without options and instructions.
      choices: texts of the options, in the order of their letters.
    truth: an answer that gets full marks, for tables and for baselines: a letter, "Yes" or "No", a
      word, a caption; empty if there is none.
    category: for the tables.
    group: items of one group are resampled together for intervals: a picture, or the turns of a
      circular question.
    earlier: ids of the questions before it in its dialogue, in order.
    fields: what the benchmark needs for its prompts and scores.
    """

    id: str
    question: str
    media: tuple[Medium, ...] = ()
    choices: tuple[str, ...] = ()
    truth: str = ""
    category: str = ""
    group: str = ""
    earlier: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """What a model is asked for an item.

    parts: texts and media, in order.
    answer_start: the beginning of the answer, which the model continues; not part of its answer.
    """

    parts: tuple[str | Medium, ...]
    answer_start: str = ""


@dataclass(frozen=True)
class JudgeCall:
    """A question to a judge.

    part: which of the judge's questions about this item, where a benchmark has several; it is the
      key of the reply in files of replies.
    attempt: 0, 1, ... where a benchmark asks again until it can read the reply.
    """

    id: str
    prompt: str
    part: str = "reply"
    attempt: int = 0
    system: str = ""


# Asks all at once. None: the judge failed, and the verdict is missing.
Ask = Callable[[Sequence[JudgeCall]], Sequence[str | None]]


@dataclass(frozen=True)
class Verdict:
    """The benchmark's judgement of one answer.

    parsed: what its parser reads in the answer; None if it reads nothing.
    score: of the item alone, 0 to 1 unless the benchmark has other units; None if a judge failed.
    details: what else `scores` needs.
    """

    parsed: str | None
    score: float | None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """An item, the model's answer, and the verdict."""

    item: Item
    answer: str
    verdict: Verdict


class Benchmark:
    """The base class of the files in benchmarks/.

    name: what --benchmark says.
    kind: of its answers; chooses the instruction of the templates `llava` and `owl`.
    modes: how its items may be asked; the first is the default.
    headline: what the headline number is called.
    max_new_tokens: of an answer.
    needs_judge: whether nothing is scored without a judge.
    is_rated: whether people grade its answers (evaluation/rating/).
    media: kinds of media that it shows.
    """

    name: str
    kind: Kind
    modes: tuple[Mode, ...] = ("generate",)
    headline: str
    max_new_tokens: int = 32
    needs_judge: bool = False
    is_rated: bool = False
    media: frozenset[str] = frozenset({"image"})

    def read(self, data: Path) -> list[Item]:
        """The items of the official files. Raises UserError for other files or another version,
        naming the file, what was found and what was expected; missing media are not looked for."""
        raise NotImplementedError

    def question(self, item: Item) -> Question:
        """What the benchmark's own code, or its paper, asks (--template=official): by default the
        media and the question."""
        return Question((*item.media, item.question))

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        """The verdict on the answer to each item, in order.

        answers: raw text of the model, for all the items.
        ask: None: only rules are used; an answer that needs the judge gets what the official code
          gives it then.
        """
        raise NotImplementedError

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """The official numbers under their official names, nested as the official code prints."""
        raise NotImplementedError

    def headline_value(self, judged: Sequence[Judged]) -> float:
        """The headline number, larger is better. Intervals resample `judged` by groups, with
        repetitions: a repeated group has another `Item.group` each time."""
        raise NotImplementedError

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """The scores of the same answers by other tools' rules, where those differ."""
        del judged
        return {}

    def constant_answers(self, items: Sequence[Item]) -> dict[str, str]:
        """Answers that look at nothing, by name; each is scored as if given to all items."""
        if self.kind == "yes_no":
            return {"Yes": "Yes", "No": "No"}
        if self.kind == "choice":
            most = max((len(item.choices) for item in items), default=0)
            return {letter: letter for letter in LETTERS[:most]}
        return {}


class RuleBenchmark(Benchmark):
    """A benchmark whose rules read an answer, which is right if that is the truth. No judge."""

    def parse(self, item: Item, answer: str) -> str | None:
        """What the official parser reads; None if nothing."""
        raise NotImplementedError

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        del ask
        parsed = [self.parse(item, answers[item.id]) for item in items]
        return [
            Verdict(found, float(found == item.truth))
            for item, found in zip(items, parsed, strict=True)
        ]

    def headline_value(self, judged: Sequence[Judged]) -> float:
        """The accuracy."""
        return mean(map(is_right, judged))


def place_media(text: str, media: Sequence[Medium]) -> tuple[str | Medium, ...]:
    """A question's parts: each medium at the next `<image>` or `<video>` of the text.

    Without marks, the media come first. Raises UserError if the marks do not fit the media.
    """
    marks = _MARK.findall(text)
    if not marks:
        return (*media, text)
    if marks != [f"<{medium.kind}>" for medium in media]:
        raise UserError(
            f"the question {shown(text)} has the marks {' '.join(marks)} for {len(media)} media; "
            "expected one mark of its kind for each medium, or none"
        )
    texts, parts = _MARK.split(text)[::2], list[str | Medium]()
    for before, medium in zip(texts, media, strict=False):
        parts += [before, medium]
    return tuple(part for part in [*parts, texts[-1]] if part != "")


def grouped(judged: Iterable[Judged], key: Callable[[Judged], T]) -> dict[T, list[Judged]]:
    """The judged items by their key, in the order in which keys appear."""
    found: dict[T, list[Judged]] = {}
    for one in judged:
        found.setdefault(key(one), []).append(one)
    return found


def by_category(judged: Iterable[Judged]) -> dict[str, list[Judged]]:
    """The judged items of each category, in the order in which categories appear."""
    return grouped(judged, lambda one: one.item.category)


def by_group(judged: Iterable[Judged]) -> dict[str, list[Judged]]:
    """The judged items of each group, in the order in which groups appear."""
    return grouped(judged, lambda one: one.item.group)


def is_right(one: Judged) -> bool:
    """Whether the parser read the truth."""
    return one.verdict.parsed == one.item.truth


def mean(values: Iterable[float]) -> float:
    """The mean; 0 of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0
