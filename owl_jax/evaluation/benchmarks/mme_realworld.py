"""MME-RealWorld: choices about large pictures. arXiv 2408.13257,
github.com/yfzhang114/MME-RealWorld (evaluation/eval_your_results.py)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import (
    Item,
    Judged,
    Medium,
    Question,
    RuleBenchmark,
    grouped,
    is_right,
    mean,
)
from owl_jax.evaluation.data_files import check_texts, find, list_of_texts, read_json_records

_KEYS = (
    *("Question_id", "Image", "Text", "Answer choices", "Ground truth"),
    *("Category", "Subtask", "Task"),
)
_LETTERS = "ABCDE"
_TASKS = ("Reasoning", "Perception")
_NOT_THERE = "E"  # "The image does not feature the object."
_SUBTASKS = (
    *("Monitoring", "OCR with Complex Context", "Diagram and Table"),
    *("Autonomous_Driving", "Remote Sensing"),
)
# Phrases that are removed before the letter. The official list lacks two commas, so that two pairs
# of phrases are one phrase each, which no answer has.
_PHRASES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option isThe correct option is", "Best answer:Best option:"),
)
_MENDED_PHRASES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option is", "The correct option is", "Best answer:", "Best option:"),
)
_LONG = 10  # words
_NO_CHOICES = tuple(f"({letter})" for letter in _LETTERS)


class MmeRealWorld(RuleBenchmark):
    """Five options, of which E says that the picture does not have it.

    An answer means the first capital A to E in it, after phrases such as "The answer is"; without
    one, the first choice that the answer is part of: an empty answer means A.
    """

    name = "mme_realworld"
    kind = "choice"
    modes = ("generate", "letter", "rank")
    headline = "accuracy"

    def read(self, data: Path) -> list[Item]:
        """MME_RealWorld.json, with pictures at its paths."""
        path = find(data, "MME_RealWorld.json", "MME_RealWorld*.json", "MME-RealWorld*.json")
        return [
            _item(record, path.parent, f"{path}: entry {number}")
            for number, record in enumerate(read_json_records(path, _KEYS), 1)
        ]

    def question(self, item: Item) -> Question:
        choices = "".join(f"{text}\n" for text in item.fields["choices"])
        text = (
            f"{item.question} The choices are listed below: \n{choices}"
            "Select the best answer to the above multiple-choice question based on the image. "
            "Respond with only the letter (A, B, C, D, or E) of the correct option.\n"
            "The best answer is:"
        )
        return Question((*item.media, text))

    def parse(self, item: Item, answer: str) -> str | None:
        return official(answer, item.fields["choices"])

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        tasks = {}
        for task in _TASKS:
            some = [one for one in judged if one.item.fields["task"] == task]
            subtasks = {
                name: _subtask(few)
                for name in _SUBTASKS
                if (few := [one for one in some if one.item.fields["subtask"] == name])
            }
            tasks[task] = {"subtasks": subtasks, **_row(some)}
        accuracy = mean(map(is_right, judged))
        return {
            "tasks": tasks,
            "overall": round(accuracy, 4),
            "overall_full_precision": accuracy,
        }

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """paper: Avg is over items, Avg-C over subtasks. lmms_eval and vlmevalkit: the mended list
        of phrases; lmms_eval does not look into the choices."""
        return {
            "paper": {
                task: _averages([one for one in judged if one.item.fields["task"] == task])
                for task in _TASKS
            },
            "lmms_eval": {
                "overall": mean(lmms_eval(one.answer) == one.item.truth for one in judged)
            },
            "vlmevalkit": {
                "Overall": mean(
                    vlmevalkit(one.answer, one.item.fields["choices"]) == one.item.truth
                    for one in judged
                )
            },
        }


def official(answer: str, choices: Sequence[str]) -> str | None:
    """The official parser. choices: with their letters, "(A) a cup"."""
    return _letter(answer, choices, _PHRASES)


def vlmevalkit(answer: str, choices: Sequence[str]) -> str | None:
    """VLMEvalKit's parser."""
    return _letter(answer, choices, _MENDED_PHRASES)


def lmms_eval(answer: str) -> str | None:
    """lmms-eval's parser."""
    return _letter(answer, _NO_CHOICES, _MENDED_PHRASES)


def _letter(answer: str, choices: Sequence[str], phrases: Sequence[str]) -> str | None:
    text = answer.strip()
    for phrase in phrases:
        text = text.replace(phrase, "")
    if found := re.search(f"[{_LETTERS}]", text):
        return found[0]
    if len(text.split()) > _LONG:
        return None
    return next((choice[1] for choice in choices if text.lower() in choice.lower()), None)


def _item(record: Mapping[str, Any], folder: Path, where: str) -> Item:
    check_texts(record, [key for key in _KEYS if key != "Answer choices"], where)
    task, subtask, truth = record["Task"], record["Subtask"], record["Ground truth"]
    if task not in _TASKS or subtask not in _SUBTASKS:
        raise UserError(
            f"{where} has the task {shown(task)} and subtask {shown(subtask)}; "
            f"expected {' or '.join(_TASKS)}, and one of {', '.join(_SUBTASKS)}"
        )
    if truth not in tuple(_LETTERS):
        raise UserError(f"{where} has the ground truth {shown(truth)}; expected one of A to E")
    category = record["Category"].lower()
    if "attribute" in category:
        category = f"{category.split('/')[0]}/attribute"
    choices = list_of_texts(record, "Answer choices", where)
    return Item(
        id=record["Question_id"],
        question=record["Text"],
        media=(Medium("image", folder / record["Image"]),),
        choices=tuple(re.sub(r"^\([A-E]\)\s*", "", choice) for choice in choices),
        truth=truth,
        category=f"{task}/{subtask}",
        group=record["Image"],
        fields={"task": task, "subtask": subtask, "category": category, "choices": choices},
    )


def _subtask(judged: Sequence[Judged]) -> dict[str, Any]:
    categories = grouped(judged, lambda one: str(one.item.fields["category"]).capitalize())
    return {
        **_row(judged),
        "categories": {
            name: {"acc": round(mean(map(is_right, few)), 4), "items": len(few)}
            for name, few in categories.items()
        },
    }


def _row(judged: Sequence[Judged]) -> dict[str, float]:
    return {
        "acc": round(mean(map(is_right, judged)), 4),
        "chose_E": sum(one.verdict.parsed == _NOT_THERE for one in judged),
        "items": len(judged),
    }


def _averages(judged: Sequence[Judged]) -> dict[str, float]:
    subtasks = grouped(judged, lambda one: one.item.fields["subtask"])
    return {
        "Avg": mean(map(is_right, judged)),
        "Avg-C": mean(mean(map(is_right, few)) for few in subtasks.values()),
    }
