"""Asks a model the questions of the embedded data set, and scores the answers by exact match.

Answers are normalised (case, punctuation, articles) before they are compared.
"""

from __future__ import annotations

import dataclasses
import io
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from PIL import Image

from owl_jax.demo.questions import Question, normalize_answer
from owl_jax.evaluation.ask import Settings, prepare
from owl_jax.evaluation.benchmark import Medium
from owl_jax.evaluation.benchmark import Question as Asked
from owl_jax.evaluation.prompts import Asking
from owl_jax.evaluation.responders import Model, Texts, generate_in_batches
from owl_jax.inference.api import Owl
from owl_jax.text.turns import IMAGE_TOKEN, VIDEO_TOKEN

MAX_ANSWER_TOKENS = 32


def answer(owl: Owl, questions: Sequence[Question], batch_size: int = 64) -> list[str]:
    """The model's greedy answers, in the order of the questions."""
    settings = Settings(max_new_tokens=MAX_ANSWER_TOKENS)
    respond = generate_in_batches(Model.of(owl), Texts.of(owl), MAX_ANSWER_TOKENS, batch_size)
    prompts = (
        prepare(owl, _asking(str(number), question), settings)
        for number, question in enumerate(questions)
    )
    answers = {reply.id: reply.text for reply in respond(prompts)}
    return [answers[str(number)] for number in range(len(questions))]


def accuracy(questions: Sequence[Question], answers: Sequence[str]) -> float:
    """The share of correct answers."""
    return float(np.mean(verdicts(questions, answers)))


def verdicts(questions: Sequence[Question], answers: Sequence[str]) -> list[bool]:
    """Whether each answer is correct."""
    return [
        normalize_answer(question.answer) == normalize_answer(given)
        for question, given in zip(questions, answers, strict=True)
    ]


def shuffle_images(questions: Sequence[Question]) -> list[Question]:
    """The same questions, each with the pictures of the previous one."""
    shifted = [*questions[-1:], *questions[:-1]]
    return [
        dataclasses.replace(question, images=other.images)
        for question, other in zip(questions, shifted, strict=True)
    ]


def blind_answers(known: Sequence[Question], questions: Sequence[Question]) -> list[str]:
    """The best guesses without pictures: the most common answer in `known` to the same question.

    If `known` does not have the question, the most common answer of the same ability.
    """
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    by_ability: dict[str, Counter[str]] = defaultdict(Counter)
    for question in known:
        by_question[question.question][question.answer] += 1
        by_ability[question.ability][question.answer] += 1
    return [
        (by_question.get(question.question) or by_ability[question.ability]).most_common(1)[0][0]
        for question in questions
    ]


def _asking(name: str, question: Question) -> Asking:
    """The question for evaluation/ask.py, with earlier turns as its history.

    Each of the human's lines is a medium or a text.
    """
    marks = {
        IMAGE_TOKEN: (Medium("image", _file(image)) for image in question.images),
        VIDEO_TOKEN: (Medium("video", tuple(map(_file, clip))) for clip in question.videos),
    }

    def asked(said: Sequence[str]) -> Asked:
        return Asked(tuple(next(marks[line]) if line in marks else line for line in said))

    beginning, *later = question.prompt_text.removesuffix("\nAI: ").split("\nAI: ")
    _, *said = beginning.split("\nHuman: ")
    history = []
    for turn in later:
        answer, *then = turn.split("\nHuman: ")
        history.append((asked(said), answer))
        said = then
    return Asking(name, asked(said), history=tuple(history))


def _file(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "BMP")  # the quickest to write and to read
    return file.getvalue()
