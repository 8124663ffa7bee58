"""MMMU: choices and open questions of college subjects. arXiv 2311.16502,
github.com/MMMU-Benchmark/MMMU (eval_utils.py, main_parse_and_eval.py, main_eval_only.py)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
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
from owl_jax.evaluation.benchmarks.mmmu_rows import (
    Pictured,
    list_of,
    options,
    verdict,
    with_pictures,
)
from owl_jax.evaluation.data_files import check_texts, read_parquet
from owl_jax.evaluation.scorers import mmmu

_COLUMNS = ("id", "question", "options", "image_1", "answer", "question_type")
_DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        *("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine"),
        *("Pharmacy", "Public_Health"),
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        *("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics"),
        *("Energy_and_Power", "Materials", "Mechanical_Engineering"),
    ),
}
_SEED = 42  # of the official code's random letters
_OFFICIAL = (" {} ",)  # forms of a letter without brackets
_LMMS_EVAL = ("{} ", "{}.")


class Mmmu(Benchmark):
    """900 questions of the validation split, in 30 subjects.

    The official code takes a random letter where it can read none. The headline counts such an
    answer as 1 / number of options instead; `scores` has the official value with Python's seed 42.
    """

    name = "mmmu"
    kind = "choice"
    headline = "accuracy, unread answers at 1 / options"

    def read(self, data: Path) -> list[Item]:
        """SUBJECT/validation-*.parquet."""
        paths = sorted(data.glob("*/validation-*.parquet"))
        if not paths:
            raise UserError(
                f"--data={data} has no files SUBJECT/validation-*.parquet; expected the folder of "
                "MMMU's subjects"
            )
        return [
            _item(row, f"{path}: {row['id']}")
            for path in paths
            for row in read_parquet(path, _COLUMNS)
        ]

    def question(self, item: Item) -> Question:
        if not item.choices:
            text = f"{item.question}\n\nAnswer the question using a single word or phrase."
        else:
            options = "".join(
                f"({letter}) {text}\n" for letter, text in zip(LETTERS, item.choices, strict=False)
            )
            text = (
                f"{item.question}\n\n{options}\n"
                "Answer with the option's letter from the given choices directly."
            )
        return Question(place_media(text, item.media))

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        del ask
        return [_verdict(item, answers[item.id]) for item in items]

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        seeded = _Seeded()
        correct = {one.item.id: seeded.correct(one) for one in _official_order(judged)}
        subjects = {
            name: [one.item.id for one in members]
            for name, members in by_category(_official_order(judged)).items()
        }
        by_subject = {
            name: {"acc": mean(correct[id] for id in ids), "num_example": len(ids)}
            for name, ids in subjects.items()
        }
        return {
            "by_subject": by_subject,
            "table": _table(by_subject),
            "random_ids": seeded.random_ids,
            "overall": mean(correct.values()),
            "overall_if_random_is_wrong": mean(map(_certain, judged)),
            "by_subject_if_random_is_wrong": {
                name: mean(map(_certain, members))
                for name, members in by_category(_official_order(judged)).items()
            },
        }

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return mean(one.verdict.score or 0.0 for one in judged)

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """lmms_eval: a letter needs a space or "." after it only."""
        seeded = _Seeded(_LMMS_EVAL)
        correct = [seeded.correct(one) for one in _official_order(judged)]
        unread = set(seeded.random_ids)
        return {
            "lmms_eval": {
                "overall": mean(correct),
                "random_ids": seeded.random_ids,
                "overall_if_random_is_wrong": mean(
                    right and one.item.id not in unread
                    for one, right in zip(_official_order(judged), correct, strict=True)
                ),
            }
        }


class _Seeded:
    """Scores as the official code does, with Python's random letters after its seed.

    random_ids: of the items that got one.
    """

    def __init__(self, bare: Sequence[str] = _OFFICIAL) -> None:
        self.random_ids: list[str] = []
        self._bare = bare
        self._random = random.Random(_SEED)

    def correct(self, one: Judged) -> bool:
        """To be asked in the official order."""
        if not one.item.choices:
            return _certain(one)
        letter = mmmu.choice(one.answer, options(one.item), self._bare)
        if letter is None:
            self.random_ids.append(one.item.id)
            letter = self._random.choice(list(options(one.item)))
        return letter == one.item.truth


def lmms_eval(answer: str, choices: Mapping[str, str]) -> str | None:
    """lmms-eval's parser of choices."""
    return mmmu.choice(answer, choices, _LMMS_EVAL)


def _item(row: Mapping[str, Any], where: str) -> Item:
    check_texts(row, ("id", "question", "options", "answer", "question_type"), where)
    texts = list_of(row["options"], where)
    placed: Pictured = with_pictures(row, row["question"], texts, where)
    open_question = row["question_type"] == "open"
    truths = list_of(row["answer"], where) if row["answer"][:1] == "[" else [row["answer"]]
    if not open_question and row["answer"] not in tuple(LETTERS[: len(texts)]):
        raise UserError(
            f"{where} has the answer {shown(row['answer'])}; expected the letter of an option"
        )
    if row["id"].count("_") < 2:
        raise UserError(
            f"{where} has the id {shown(row['id'])}; expected SPLIT_SUBJECT_NUMBER, such as "
            "validation_Art_1"
        )
    return Item(
        id=row["id"],
        question=placed.question,
        media=placed.media,
        choices=() if open_question else placed.options,
        truth=truths[0],
        category=row["id"].split("_", 1)[1].rpartition("_")[0],
        group=row["id"],
        fields={"options": texts, "truths": truths},
    )


def _verdict(item: Item, answer: str) -> Verdict:
    if item.choices:
        return verdict(item, mmmu.choice(answer, options(item), _OFFICIAL))
    found = mmmu.open_answer(answer)
    correct = mmmu.open_correct(found, item.fields["truths"])
    return Verdict("; ".join(map(str, found)) or None, float(correct), {"open": found})


def _certain(one: Judged) -> bool:
    """Whether it is right by what was read."""
    return one.verdict.parsed is not None and one.verdict.score == 1.0


def _official_order(judged: Sequence[Judged]) -> list[Judged]:
    """Subjects in the order of the alphabet; the order of random letters depends on it."""
    return sorted(judged, key=lambda one: one.item.category)


def _table(by_subject: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """main_eval_only.py's table: domains and subjects, weighted by items, three decimals."""
    table = {}
    for domain, subjects in _DOMAINS.items():
        found = {name: by_subject[name] for name in subjects if name in by_subject}
        table[f"Overall-{domain}"] = _weighted(found)
        for name, row in found.items():
            table[name] = {"num": row["num_example"], "acc": round(row["acc"], 3)}
    table["Overall"] = _weighted(by_subject)
    return table


def _weighted(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    number = sum(row["num_example"] for row in rows.values())
    correct = sum(row["acc"] * row["num_example"] for row in rows.values())
    return {"num": number, "acc": round(correct / number, 3) if number else 0}
