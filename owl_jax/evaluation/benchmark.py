"""The interface of a benchmark: its items, what a model is asked, how its answers are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["yes_no", "choice", "short_answer", "caption", "judged"]
Mode = Literal["generate", "rank", "letter"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Medium:
    """A picture or a video, not decoded yet.

    source: a file, a folder of frames, or the bytes of a file.
    start, end: seconds of a video; None: from its beginning, to its end.
    """

    kind: Literal["image", "video"]
    source: Path | bytes
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Item:
    """One thing that is asked and scored.

    id: unique in the benchmark, and the same as in files of answers.
    question: the benchmark's own text, without options and instructions.
    media: in order. `question` may name their places with `<image>` (Question.parts).
    choices: texts of the options, in the order of their letters.
    truth: an answer that gets full marks, for tables and for baselines: a letter, "Yes" or "No", a
      word, a caption; empty if there is none.
    category: for the tables.
    group: items of one group are resampled together for intervals: a picture, or the turns of a
      circular question.
    fields: what the benchmark needs for its prompts and scores.
    """

    id: str
    question: str
    media: tuple[Medium, ...] = ()
    choices: tuple[str, ...] = ()
    truth: str = ""
    category: str = ""
    group: str = ""
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
    """What the benchmark makes of one answer.

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
    media: kinds of media that it shows.
    """

    name: str
    kind: Kind
    modes: tuple[Mode, ...] = ("generate",)
    headline: str
    max_new_tokens: int = 32
    needs_judge: bool = False
    media: frozenset[str] = frozenset({"image"})

    def read(self, data: Path) -> list[Item]:
        """The items of the official files. Raises UserError for other files or another version,
        naming the file, what was found and what was expected; missing media are not looked for."""
        raise NotImplementedError

    def question(self, item: Item) -> Question:
        """What the benchmark's own code, or its paper, asks (--template=official)."""
        raise NotImplementedError

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
        """What other tools' rules make of the same answers, where they differ."""
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


def by_category(judged: Iterable[Judged]) -> dict[str, list[Judged]]:
    """The judged items of each category, in the order in which categories appear."""
    found: dict[str, list[Judged]] = {}
    for one in judged:
        found.setdefault(one.item.category, []).append(one)
    return found


def mean(values: Iterable[float]) -> float:
    """The mean; 0 of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0
