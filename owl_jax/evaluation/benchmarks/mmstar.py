"""MMStar: choices that cannot be made without the picture. arXiv 2403.20330,
github.com/MMStar-Benchmark/MMStar (eval/vlmeval/evaluate/mmstar.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import (
    LETTERS,
    Item,
    Judged,
    Medium,
    Question,
    RuleBenchmark,
    by_category,
    grouped,
    is_right,
    mean,
)
from owl_jax.evaluation.data_files import (
    Record,
    check_texts,
    find,
    picture_bytes,
    read_parquet,
    read_table,
    table_pictures,
)
from owl_jax.evaluation.scorers import choice
from owl_jax.evaluation.scorers.lmms_eval_letters import likeliest_letter

_COLUMNS = ("index", "question", "image", "answer", "category", "l2_category")
_LETTERS = LETTERS[:4]
_CATEGORY, _WHOLE = 250, 1_500  # items of the official set, which its code divides by
_BEFORE_LETTER = ("", "(", "option ", "the answer is ")
# Where the options begin in a question: "Options: A: ..., B: ..." or "Choices:\n(A) ...".
_OPTIONS = re.compile(r"\n(?:Options:|Choices:)\s*")
_OPTION = re.compile(r"(?:^|,\s*|\n)\(?([A-D])(?::|\))\s*")

Right = Callable[[Judged], bool]


class MmStar(RuleBenchmark):
    """1,500 questions, 250 in each of six categories.

    An answer counts if it begins with the letter in any case, alone or after "(", "option " or "the
    answer is ".
    """

    name = "mmstar"
    kind = "choice"
    modes = ("generate", "letter", "rank")
    headline = "accuracy"

    def read(self, data: Path) -> list[Item]:
        """mmstar.parquet, or MMStar.tsv."""
        path = find(data, "mmstar.parquet", "MMStar.tsv", "*.parquet", "*.tsv")
        if path.suffix == ".tsv":
            rows = read_table(path, _COLUMNS)
            pictures = table_pictures(rows, path)
        else:
            rows = read_parquet(path, _COLUMNS)
            pictures = [
                picture_bytes(row["image"], f"{path}: index {row['index']}") for row in rows
            ]
        return [
            _item(row, picture, f"{path}: index {row['index']}")
            for row, picture in zip(rows, pictures, strict=True)
        ]

    def question(self, item: Item) -> Question:
        return Question((*item.media, item.fields["text"]))

    def parse(self, item: Item, answer: str) -> str | None:
        del item
        return beginning(answer)

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """Categories are divided by 250 and the final score by 1,500, as the official code does
        also for fewer items; variants() has the shares."""
        scores: dict[str, Any] = {"final score": sum(map(is_right, judged)) / _WHOLE}
        for name, members in by_category(judged).items():
            scores[name] = sum(map(is_right, members)) / _CATEGORY
            for small, few in _by_small_category(members).items():
                scores[f"{name}({small})"] = mean(map(is_right, few))
        return scores

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """derived_accuracy: the official rule, as shares. lmms_eval: reads the clearest letter, and
        averages the small categories. vlmevalkit_exact_matching: VLMEvalKit's rules for choices."""
        categories = by_category(judged)
        return {
            "derived_accuracy": {
                "overall": self.headline_value(judged),
                **{name: mean(map(is_right, some)) for name, some in categories.items()},
            },
            "lmms_eval": {
                "average": _mean_of_small(judged),
                **{name: _mean_of_small(some) for name, some in categories.items()},
            },
            "vlmevalkit_exact_matching": {
                "none": {
                    "Overall": mean(map(_vlmevalkit, judged)),
                    **{
                        name: mean(map(_vlmevalkit, some))
                        for name, some in (*_by_small_category(judged).items(), *categories.items())
                    },
                }
            },
        }


def beginning(answer: str) -> str | None:
    """The official parser."""
    text = answer.lower().strip()
    for before in _BEFORE_LETTER:
        letter = text.removeprefix(before)[:1].upper()
        if text.startswith(before) and letter and letter in _LETTERS:
            return letter
    return None


def _item(row: Record, picture: bytes | None, where: str) -> Item:
    check_texts(row, _COLUMNS[1:2] + _COLUMNS[3:], where)
    truth = row["answer"].strip().upper()
    if truth not in tuple(_LETTERS):
        raise UserError(f"{where} has the answer {shown(row['answer'])}; expected A, B, C or D")
    question, listed = _split(row["question"])
    choices = tuple(row.get(letter) or "" for letter in _LETTERS)
    return Item(
        id=str(row["index"]),
        question=question,
        media=(Medium("image", picture),) if picture else (),
        choices=choices if any(choices) else listed,
        truth=truth,
        category=row["category"],
        group=str(row["index"]),
        fields={"text": row["question"], "l2_category": row["l2_category"]},
    )


def _split(text: str) -> tuple[str, tuple[str, ...]]:
    """A question without its options, and the options; none if they are not in a known form."""
    begin = _OPTIONS.search(text)
    if not begin:
        return text, ()
    parts = _OPTION.split(text[begin.end() :].strip())[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    return text[: begin.start()], tuple(found[letter].strip() for letter in sorted(found))


def _by_small_category(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    return grouped(judged, lambda one: str(one.item.fields["l2_category"]))


def _mean_of_small(judged: Sequence[Judged]) -> float:
    return mean(mean(map(_lmms_eval, some)) for some in _by_small_category(judged).values())


def _lmms_eval(one: Judged) -> bool:
    return likeliest_letter(one.answer, _LETTERS) == one.item.truth


def _vlmevalkit(one: Judged) -> bool:
    return choice.vlmevalkit(one.answer, choice.lettered(one.item.choices)) == one.item.truth
