"""Evaluates the demonstration: held-out questions by ability, with and without the pictures, and
questions outside the training (demo/probes.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import owl_jax
from owl_jax.demo.answers import accuracy, answer, blind_answers, shuffle_images
from owl_jax.demo.probes import probes
from owl_jax.demo.questions import Question, questions

SEED = 2024  # of the held-out questions; training data use another seed
BLIND_QUESTIONS = 5000  # training questions for the blind baseline


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question and the model's answer."""

    question: Question
    answer: str


@dataclass(frozen=True)
class Results:
    """numbers: accuracies and counts. examples: a few questions of each kind."""

    numbers: dict[str, Any]
    examples: list[AnsweredQuestion]


def evaluate(before: Path, after: Path, count: int) -> Results:
    """Evaluates the model after stage 2, and its text abilities before stage 2.

    Args:
      before: directory of the model before stage 2.
      after: directory of the model after stage 2.
      count: questions about one picture; each other kind has a quarter as many, at least one.
    """
    asked = held_out_questions(count)
    outside = probes(SEED, max(count // 4, 1))
    owl = owl_jax.load(after, dtype="float32")
    answers = {kind: answer(owl, items) for kind, items in (asked | outside).items()}
    shuffled = shuffle_images(asked["image"])
    known = questions("train", SEED, BLIND_QUESTIONS, ["vqa"], image_size=24)
    text_owl = owl_jax.load(before, dtype="float32")
    numbers: dict[str, Any] = {
        "image_accuracy": accuracy(asked["image"], answers["image"]),
        "shuffled_accuracy": accuracy(shuffled, answer(owl, shuffled)),
        "blind_accuracy": accuracy(asked["image"], blind_answers(known, asked["image"])),
        "video_accuracy": accuracy(asked["video"], answers["video"]),
        "multi_image_accuracy": accuracy(asked["multi_image"], answers["multi_image"]),
        "text_accuracy_before": accuracy(asked["text"], answer(text_owl, asked["text"])),
        "text_accuracy_after": accuracy(asked["text"], answers["text"]),
        **{f"{kind}_accuracy": accuracy(items, answers[kind]) for kind, items in outside.items()},
        "questions": sum(map(len, (asked | outside).values())),
        "by_ability": _by_ability(asked, answers),
    }
    examples = [
        AnsweredQuestion(question, given)
        for kind, items in (asked | outside).items()
        for question, given in zip(items[:6], answers[kind], strict=False)
    ]
    return Results(numbers, examples)


def held_out_questions(count: int) -> dict[str, list[Question]]:
    """`count` questions about single pictures, and a quarter as many of each other kind."""
    fewer = max(count // 4, 1)
    return {
        "image": questions("heldout", SEED, count, ["vqa"]),
        "video": questions("heldout", SEED, fewer, ["video"]),
        "multi_image": questions("heldout", SEED, fewer, ["two_images"]),
        "text": questions("heldout", SEED, fewer, ["text_scene", "text_facts"]),
    }


def _by_ability(
    asked: Mapping[str, list[Question]], answers: Mapping[str, list[str]]
) -> dict[str, float]:
    grouped: dict[str, list[tuple[Question, str]]] = {}
    for kind, items in asked.items():
        for question, given in zip(items, answers[kind], strict=True):
            grouped.setdefault(f"{kind}: {question.ability}", []).append((question, given))
    return {name: accuracy(*zip(*pairs, strict=True)) for name, pairs in sorted(grouped.items())}


def format_table(report: Mapping[str, Any]) -> str:
    """The report's numbers as a text table."""
    trained = [
        ("questions about one picture", "image_accuracy"),
        ("  the same, pictures shuffled", "shuffled_accuracy"),
        ("  the best guess without looking", "blind_accuracy"),
        ("questions about two pictures", "multi_image_accuracy"),
        ("questions about a video", "video_accuracy"),
        ("text only, before stage 2", "text_accuracy_before"),
        ("text only, after stage 2", "text_accuracy_after"),
    ]
    outside = [
        ("  in other words", "reworded_accuracy"),
        ('  about "it", after a question', "follow_up_accuracy"),
        ("  about two pictures, one at a time", "two_turns_accuracy"),
        ("  about three pictures", "three_images_accuracy"),
    ]

    def written(rows: list[tuple[str, str]]) -> list[str]:
        return [f"{label:<36}{report[key]:>8.1%}" for label, key in rows]

    times = ", ".join(f"{stage} {s:.0f} s" for stage, s in report["seconds"].items())
    return "\n".join(
        [
            f"{'held-out accuracy':<36}{'right':>8}",
            "-" * 44,
            *written(trained),
            "outside the training",
            *written(outside),
            "-" * 44,
            f"{report['questions']} questions; {times}",
        ]
    )
