"""ScienceQA: choices of school science, half of them with a picture. arXiv 2209.09513,
github.com/lupantech/ScienceQA (evaluate_acc.py); read by LLaVA's rules (eval_science_qa.py)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
    is_right,
    mean,
)
from owl_jax.evaluation.data_files import check_texts, checked, find, list_of_texts, read_json

_KEYS = ("question", "choices", "answer", "hint", "image", "grade", "subject", "topic")
_OPTIONS = tuple(LETTERS[:5])
_SUBJECTS = ("natural", "social", "language")
_GRADES = {
    "grade_1_6": {f"grade{number}" for number in range(1, 7)},
    "grade_7_12": {f"grade{number}" for number in range(7, 13)},
}
_TOPICS = (
    *("punctuation", "literacy-in-science", "verbs", "pronouns", "civics", "culture"),
    *("word-study", "economics", "physics", "units-and-measurement"),
    *("science-and-engineering-practices", "reading-comprehension", "global-studies", "grammar"),
    *("figurative-language", "us-history", "writing-strategies", "world-history"),
    *("reference-skills", "biology", "earth-science", "phonological-awareness", "capitalization"),
    *("chemistry", "vocabulary", "geography"),
)
_NONE = -1.0  # the official accuracy of a topic without questions
# The official dot is any character, so "The answer is B" at the very end is not read.
_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")


class ScienceQa(RuleBenchmark):
    """4,241 questions of the test split, with 2 to 5 options.

    An answer is a letter, begins with "A. ", or has "The answer is A." exactly once.
    """

    name = "scienceqa"
    kind = "choice"
    modes = ("generate", "letter", "rank")
    headline = "accuracy"

    def read(self, data: Path) -> list[Item]:
        """problems.json and pid_splits.json; pictures in test/ID/ or images/test/ID/."""
        path = find(data, "problems.json")
        problems = checked(read_json(path), (), str(path))
        splits_path = path.with_name("pid_splits.json")
        splits = checked(read_json(splits_path), ("test",), str(splits_path))
        ids = list_of_texts(splits, "test", str(splits_path))
        checked(problems, ids, str(path), "problems")
        inner = path.parent / "images" / "test"
        pictures = inner if inner.is_dir() else path.parent / "test"
        return [
            _item(id, checked(problems[id], _KEYS, f"{path}: problem {id}"), pictures, path)
            for id in ids
        ]

    def question(self, item: Item) -> Question:
        options = " ".join(
            f"({letter}) {text}" for letter, text in zip(LETTERS, item.choices, strict=False)
        )
        text = (
            f"Question: {item.question}\nContext: {item.fields['hint'].strip() or 'N/A'}\n"
            f"Options: {options}\nAnswer:"
        )
        return Question((*item.media, text))

    def parse(self, item: Item, answer: str) -> str | None:
        del item
        return llava(answer)

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        pictured = [one for one in judged if one.item.media]
        correct = sum(map(is_right, judged))
        accuracy = 100 * correct / len(judged)
        return {
            "official_llava": {
                "total": len(judged),
                "correct": correct,
                "acc": accuracy,
                "printed_acc": round(accuracy, 2),
                "printed_img_acc": round(100 * mean(map(is_right, pictured)), 2),
            },
            "official_scienceqa": _by_kind(judged),
        }

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """lmms_eval: a letter alone in any case, or a capital letter and "." at the beginning."""
        right = [(lmms_eval(one.answer) == one.item.truth, bool(one.item.media)) for one in judged]
        return {
            "lmms_eval": {
                "scienceqa_full": mean(correct for correct, _ in right),
                "scienceqa_img": mean(correct for correct, pictured in right if pictured),
            }
        }


def llava(answer: str) -> str | None:
    """LLaVA's parser."""
    if answer in _OPTIONS:
        return answer
    if answer[:1] in _OPTIONS and answer[1:3] == ". ":
        return answer[0]
    found = _ANSWER_IS.findall(answer)
    return found[0] if len(found) == 1 else None


def lmms_eval(answer: str) -> str | None:
    """lmms-eval's parser."""
    text = answer.strip()
    if len(text) == 1:
        return text.upper()
    return text[0] if text[:1].isupper() and text[1] == "." else None


def _item(id: str, problem: Mapping[str, Any], pictures: Path, path: Path) -> Item:
    where = f"{path}: problem {id}"
    check_texts(problem, ("question", "hint", "grade", "subject", "topic"), where)
    choices, answer = list_of_texts(problem, "choices", where), problem["answer"]
    if not isinstance(answer, int) or not 0 <= answer < len(choices) <= len(_OPTIONS):
        raise UserError(
            f"{where} has the answer {shown(answer)} and {len(choices)} choices; "
            f"expected the number of one of at most {len(_OPTIONS)}"
        )
    image = problem["image"]
    return Item(
        id=id,
        question=problem["question"],
        media=(Medium("image", pictures / id / str(image)),) if image else (),
        choices=choices,
        truth=LETTERS[answer],
        category=problem["subject"],
        group=id,
        fields={key: problem[key] for key in ("hint", "grade", "topic")},
    )


def _by_kind(judged: Sequence[Judged]) -> dict[str, float]:
    """The accuracies in per cent, two decimals."""

    items = [(one.item, one.item.fields, is_right(one)) for one in judged]
    kinds = {
        "has_text": [right for _, fields, right in items if fields["hint"]],
        "has_image": [right for item, _, right in items if item.media],
        "no_context": [
            right for item, fields, right in items if not item.media and not fields["hint"]
        ],
        "average": [right for _, _, right in items],
    }
    for name in _SUBJECTS:
        kinds[name] = [right for item, _, right in items if item.category == f"{name} science"]
    for name, grades in _GRADES.items():
        kinds[name] = [right for _, fields, right in items if fields["grade"] in grades]
    for name in _TOPICS:
        kinds[name] = [right for _, fields, right in items if fields["topic"] == name]
    return {
        f"acc_{name}": round(100 * mean(right), 2) if right else _NONE
        for name, right in kinds.items()
    }
