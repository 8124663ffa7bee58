"""Recorded data of tests/goldens/scores: made-up questions, answers, the official numbers."""

import json
from pathlib import Path

from owl_jax.evaluation.benchmark import Judged
from owl_jax.evaluation.judge import recorded_replies

SCORES = Path(__file__).parents[2] / "goldens" / "scores"


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def numbers_of(name):
    return json.loads((SCORES / name / "scores.json").read_text(encoding="utf-8"))


def judged_of(benchmark, name=None, ask=None, data=None, unanswered=()):
    """The recorded answers with our verdicts.

    data: where the questions are, if not beside the answers. unanswered: ids of items.
    """
    folder = SCORES / (name or benchmark.name)
    answers = {str(line["id"]): line["answer"] for line in lines(folder / "answers.jsonl")}
    answers |= dict.fromkeys(unanswered, "")
    items = benchmark.read(data or folder)
    assert {item.id for item in items} == set(answers)
    verdicts = benchmark.judge(items, answers, ask)
    return [
        Judged(item, answers[item.id], verdict)
        for item, verdict in zip(items, verdicts, strict=True)
    ]


def replies_of(name):
    return recorded_replies(SCORES / name / "judge_replies.jsonl")


def difference(found, expected, path=""):
    """Where two JSON values differ by more than 1e-9, in words."""
    if isinstance(expected, dict):
        if not isinstance(found, dict) or found.keys() != expected.keys():
            return [f"{path}: {found} is not {expected}"]
        return [
            line
            for key in expected
            for line in difference(found[key], expected[key], f"{path}/{key}")
        ]
    if isinstance(expected, float):
        return [] if abs(found - expected) <= 1e-9 else [f"{path}: {found} is not {expected}"]
    return [] if found == expected else [f"{path}: {found} is not {expected}"]
