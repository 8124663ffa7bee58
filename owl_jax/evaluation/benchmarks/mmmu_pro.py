"""MMMU-Pro: MMMU with up to ten options, and with the whole question as a picture.
arXiv 2409.02813, github.com/MMMU-Benchmark/MMMU (mmmu-pro/evaluate.py)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import (
    LETTERS,
    Ask,
    Benchmark,
    Item,
    Judged,
    Question,
    Verdict,
    by_category,
    mean,
    place_media,
)
from owl_jax.evaluation.benchmarks.mmmu_rows import list_of, options, verdict, with_pictures
from owl_jax.evaluation.data_files import check_texts, read_parquet
from owl_jax.evaluation.scorers import mmmu

_VISION = "vision"
_SETTINGS = ("standard (10 options)", "standard (4 options)", _VISION)
_OVERALL = ("standard (10 options)", _VISION)
_COLUMNS = ("id", "options", "answer", "subject")
_SEED = 42
_BARE = ("{} ", "{}.")
_ANSWER = "Answer:"

Parser = Callable[[str, Mapping[str, str]], str | None]


class MmmuPro(Benchmark):
    """1,730 questions in each of three settings; the overall number is the mean of standard (10
    options) and vision.

    Where the official code takes a random letter, the headline counts 1 / number of options. The
    official code sets no seed; `scores` has its value with seed 42 in each setting.
    """

    name = "mmmu_pro"
    kind = "choice"
    modes = ("generate", "letter")
    headline = "mean of standard (10 options) and vision, unread answers at 1 / options"

    def read(self, data: Path) -> list[Item]:
        """standard (10 options)/, standard (4 options)/ and vision/, each with test-*.parquet."""
        items = []
        for setting in _SETTINGS:
            columns = (*_COLUMNS, "image" if setting == _VISION else "question")
            for path in sorted((data / setting).glob("test-*.parquet")):
                items += [
                    _item(row, setting, f"{path}: {row['id']}")
                    for row in read_parquet(path, columns)
                ]
        if not items:
            raise UserError(
                f"--data={data} has no test-*.parquet in the folders {', '.join(_SETTINGS)}; "
                "expected those of MMMU-Pro"
            )
        return items

    def question(self, item: Item) -> Question:
        if item.category == _VISION:
            text = (
                "Answer with the option letter from the given choices directly. The last line of "
                "your response should be of the following format: 'Answer: $LETTER' (without "
                "quotes) where LETTER is one of options."
            )
        else:
            options = "\n".join(
                f"{letter}. {text}" for letter, text in zip(LETTERS, item.choices, strict=False)
            )
            text = (
                f"{item.question}\n{options}\n"
                "Answer with the option letter from the given choices directly."
            )
        return Question(place_media(text, item.media))

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        del ask
        return [verdict(item, official(answers[item.id], options(item))) for item in items]

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        return {name: _seeded(members) for name, members in by_category(judged).items()}

    def headline_value(self, judged: Sequence[Judged]) -> float:
        settings = by_category(judged)
        counted = [name for name in _OVERALL if name in settings] or list(settings)
        return mean(mean(one.verdict.score or 0.0 for one in settings[name]) for name in counted)

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """lmms_eval: MMMU's rules only, without what follows "Answer:"."""
        return {
            "lmms_eval": {
                name: _unread(members, lmms_eval) for name, members in by_category(judged).items()
            }
        }


def official(answer: str, choices: Mapping[str, str]) -> str | None:
    """The official parser: the one option letter after the last "Answer:", or MMMU's rules."""
    _, found, after = answer.rpartition(_ANSWER)
    letters = [letter for letter in choices if found and letter in after]
    return letters[0] if len(letters) == 1 else lmms_eval(answer, choices)


def lmms_eval(answer: str, choices: Mapping[str, str]) -> str | None:
    """lmms-eval's parser."""
    return mmmu.choice(answer, choices, _BARE)


def _item(row: Mapping[str, Any], setting: str, where: str) -> Item:
    check_texts(row, _COLUMNS, where)
    texts = list_of(row["options"], where)
    if row["answer"] not in tuple(LETTERS[: len(texts)]):
        raise UserError(
            f"{where} has the answer {shown(row['answer'])}; expected the letter of an option"
        )
    if setting == _VISION:
        # The question and the options are in the picture.
        placed = with_pictures({"image_1": row["image"]}, "", (), where)
        question, shown_options = "", tuple(texts)
    else:
        check_texts(row, ("question",), where)
        placed = with_pictures(row, row["question"], texts, where)
        question, shown_options = placed.question, placed.options
    return Item(
        id=f"{setting}/{row['id']}",
        question=question,
        media=placed.media,
        choices=shown_options,
        truth=row["answer"],
        category=setting,
        group=row["id"],
        fields={"options": texts, "id": row["id"], "subject": row["subject"]},
    )


def _seeded(judged: Sequence[Judged]) -> dict[str, Any]:
    letters = random.Random(_SEED)
    correct = [
        (one.verdict.parsed or letters.choice(list(options(one.item)))) == one.item.truth
        for one in judged
    ]
    return {
        "accuracy_percent_printed": round(100 * mean(correct), 2),
        "accuracy": mean(correct),
        **_unread(judged, official),
    }


def _unread(judged: Sequence[Judged], parser: Parser) -> dict[str, Any]:
    read = [(one.item, parser(one.answer, options(one.item))) for one in judged]
    return {
        "accuracy_if_random_is_wrong": mean(letter == item.truth for item, letter in read),
        "random_ids": sorted(item.fields["id"] for item, letter in read if letter is None),
    }
