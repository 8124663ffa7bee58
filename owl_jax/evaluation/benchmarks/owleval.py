"""OwlEval: 82 questions about 50 pictures, rated by people. arXiv 2304.14178,
github.com/X-PLUG/mPLUG-Owl (OwlEval/)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import (
    Ask,
    Benchmark,
    Item,
    Judged,
    Medium,
    Verdict,
    mean,
)
from owl_jax.evaluation.data_files import check_texts, find, numbered_json_lines

ABILITIES = {
    "a": "instruction understanding",
    "b": "visual understanding",
    "c": "optical character recognition",
    "d": "knowledge transfer",
    "e": "reasoning",
    "f": "multi-turn dialogue",
}
SINGLE, MULTI = "single_turn", "multi_turn"


class OwlEval(Benchmark):
    """People rate the answers from A to D; nothing here does.

    What is counted is whether there is an answer. Item.fields has `image` and `question_id` as
    published; `abilities`, letters of ABILITIES; and `turns`, SINGLE or MULTI or both: the first
    question of a dialogue also counts alone.
    """

    name = "owleval"
    kind = "judged"
    headline = "share of questions with an answer"
    max_new_tokens = 512
    is_rated = True

    def read(self, data: Path) -> list[Item]:
        """questions.jsonl; pictures in cases/."""
        path = find(data, "questions.jsonl")
        keys = ("image", "question_id", "question", "ability", "category")
        dialogues: dict[str, list[str]] = {}
        items = []
        for number, record in numbered_json_lines(path, keys):
            where, id = f"{path}: line {number}", str(record["question_id"])
            abilities = tuple(str(record["ability"]).replace(" ", "").split(","))
            check_texts(record, ("image", "question"), where)
            turns = record["category"]
            if not set(abilities) <= set(ABILITIES):
                raise UserError(
                    f"{where}: found the ability {shown(record['ability'])}; expected letters from "
                    "a to f with commas"
                )
            known = isinstance(turns, list) and all(turn in (SINGLE, MULTI) for turn in turns)
            if not known or not turns:
                raise UserError(
                    f"{where}: found the category {shown(turns)}; expected a list of {SINGLE} and "
                    f"{MULTI}"
                )
            earlier = dialogues.setdefault(record["image"], [])
            items.append(
                Item(
                    id=id,
                    question=record["question"],
                    media=(Medium("image", path.parent / "cases" / record["image"]),),
                    category=" and ".join(turns),
                    group=record["image"],
                    earlier=tuple(earlier) if MULTI in turns else (),
                    fields={
                        "image": record["image"],
                        "question_id": record["question_id"],
                        "abilities": abilities,
                        "turns": tuple(turns),
                    },
                )
            )
            if MULTI in turns:
                earlier.append(id)
        return items

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        del ask
        texts = [answers[item.id].strip() for item in items]
        return [Verdict(text or None, float(bool(text))) for text in texts]

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """Numbers of answered questions."""

        def answered(turn: str) -> int:
            return sum(
                turn in one.item.fields["turns"] and bool(one.verdict.score) for one in judged
            )

        return {
            "answered": sum(bool(one.verdict.score) for one in judged),
            SINGLE: answered(SINGLE),
            MULTI: answered(MULTI),
        }

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return mean(one.verdict.score or 0.0 for one in judged)
