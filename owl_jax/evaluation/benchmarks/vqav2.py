"""VQAv2, and other data in its form (OK-VQA, VizWiz, ...): short answers about pictures.

arXiv 1612.00837, visualqa.org, github.com/GT-Vision-Lab/VQA.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from owl_jax.evaluation.data_files import (
    Record,
    check_ids,
    check_texts,
    checked,
    checked_list,
    find_only,
    read_json,
)
from owl_jax.evaluation.scorers import vqa

Rule = Callable[[str, Sequence[str]], float]


class Vqav2(Benchmark):
    """Two official files: questions, and the ten answers of people to each."""

    name = "vqav2"
    kind = "short_answer"
    headline = "accuracy, per cent"
    max_new_tokens = 16

    def read(self, data: Path) -> list[Item]:
        """*questions.json and *annotations.json; pictures in the folder that data_subtype names,
        such as val2014/, or where the key "image" of a question says."""
        if data.is_file():
            raise UserError(f"--data={data}: expected a folder with questions and annotations")
        path = find_only(data, "*questions.json")
        answers_path = find_only(data, "*annotations.json")
        whole = checked(read_json(path), ("questions",), str(path))
        annotations = {
            record["question_id"]: record
            for record in _records(
                answers_path,
                "annotations",
                ("question_id", "question_type", "answer_type", "answers"),
            )
        }
        subtype = str(whole.get("data_subtype", ""))
        items = []
        for record in _records(path, "questions", ("question_id", "image_id", "question")):
            check_texts(record, ("question",), f"{path}: question {record['question_id']}")
            annotation = annotations.get(record["question_id"])
            if annotation is None:
                raise UserError(
                    f"{answers_path} has no answers to question {shown(record['question_id'])} of "
                    f"{path.name}; expected the file of the same split"
                )
            items.append(_item(record, annotation, data, subtype, answers_path))
        return items

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        del ask
        return [
            Verdict(
                vqa.normalised(vqa.on_one_line(answers[item.id])) or None,
                vqa.accuracy(answers[item.id], item.fields["answers"]),
            )
            for item in items
        ]

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        accuracies = [one.verdict.score or 0.0 for one in judged]
        return _tables(judged, accuracies) | {
            "per_question": {
                one.item.id: round(100 * accuracy, 2)
                for one, accuracy in zip(judged, accuracies, strict=True)
            }
        }

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return 100 * mean(one.verdict.score or 0.0 for one in judged)

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """mPLUG-Owl2's rule (per cent) and lmms-eval's (a fraction)."""

        def by(rule: Rule) -> list[float]:
            return [rule(one.answer, one.item.fields["answers"]) for one in judged]

        return {
            "mplug_owl2": _tables(judged, by(vqa.owl2_accuracy)),
            "lmms_eval": {"exact_match": mean(by(vqa.lmms_eval_accuracy))},
        }


def _item(record: Record, annotation: Record, data: Path, subtype: str, answers_path: Path) -> Item:
    where = f"{answers_path}: question {record['question_id']}"
    check_texts(annotation, ("answer_type", "question_type"), where)
    given = annotation["answers"]
    if not isinstance(given, list) or not given:
        raise UserError(f"{where}: found {shown(given)} as answers; expected a list of objects")
    answers = [str(checked(one, ("answer",), where)["answer"]) for one in given]
    if "image" in record:
        picture = data / str(record["image"])
    else:
        if not str(record["image_id"]).isdecimal():
            raise UserError(
                f"{where}: image_id is {shown(record['image_id'])}; expected a number, or the key "
                "image with the file of the picture"
            )
        picture = data / subtype / f"COCO_{subtype}_{int(record['image_id']):012d}.jpg"
    most = annotation.get("multiple_choice_answer") or Counter(answers).most_common(1)[0][0]
    return Item(
        id=str(record["question_id"]),
        question=record["question"],
        media=(Medium("image", picture),),
        truth=str(most),
        category=annotation["answer_type"],
        group=str(record["image_id"]),
        fields={"answers": answers, "question_type": annotation["question_type"]},
    )


def _tables(judged: Sequence[Judged], accuracies: Sequence[float]) -> dict[str, Any]:
    """Per cent with two decimals, as the official code prints."""
    by_question: dict[str, list[float]] = {}
    by_answer: dict[str, list[float]] = {}
    for one, accuracy in zip(judged, accuracies, strict=True):
        by_question.setdefault(one.item.fields["question_type"], []).append(accuracy)
        by_answer.setdefault(one.item.category, []).append(accuracy)
    return {
        "overall": _per_cent(accuracies),
        "perQuestionType": {name: _per_cent(values) for name, values in by_question.items()},
        "perAnswerType": {name: _per_cent(values) for name, values in by_answer.items()},
    }


def _per_cent(values: Sequence[float]) -> float:
    return round(100 * sum(values) / len(values), 2)


def _records(path: Path, key: str, keys: Sequence[str]) -> list[Record]:
    whole = checked(read_json(path), (key,), str(path))
    records = []
    for number, value in enumerate(checked_list(whole, key, str(path)), 1):
        where = f"{path}: entry {number} of {key}"
        record = checked(value, keys, where)
        check_ids(record, ("question_id",), where)
        records.append(record)
    return records
