"""Asks a model the embedded data set's questions and scores the answers.

An answer is right if it equals the true one after normalising (case, punctuation, articles).
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from owl_jax.demo.questions import Question, normalize_answer
from owl_jax.inference.engine import NUM_FRAMES, Owl
from owl_jax.media.image import load_image, preprocess_image
from owl_jax.media.video import load_video
from owl_jax.text.conversation import tokenize_prompt

MAX_ANSWER_TOKENS = 32


def answer(
    owl: Owl,
    questions: Sequence[Question],
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """The model's greedy answers, in the order of the questions.

    Questions with equal numbers of media share a batch, so that no slot is computed in vain.
    progress: is told how many answers each batch gave.
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, question in enumerate(questions):
        groups[len(question.images), len(question.videos)].append(i)
    answers = [""] * len(questions)
    for members in groups.values():
        for start in range(0, len(members), batch_size):
            batch = members[start : start + batch_size]
            # A full batch always: a smaller last one would be compiled anew.
            filled = (batch * batch_size)[:batch_size] if start else batch
            for i, text in zip(
                batch, _answer_batch(owl, [questions[j] for j in filled]), strict=False
            ):
                answers[i] = text
            progress(len(batch))
    return answers


def accuracy(questions: Sequence[Question], answers: Sequence[str]) -> float:
    """The share of right answers."""
    right = [
        normalize_answer(question.answer) == normalize_answer(given)
        for question, given in zip(questions, answers, strict=True)
    ]
    return float(np.mean(right))


def shuffle_images(questions: Sequence[Question]) -> list[Question]:
    """The same questions, each with the pictures of the one before it."""
    shifted = [*questions[-1:], *questions[:-1]]
    return [
        dataclasses.replace(question, images=other.images)
        for question, other in zip(questions, shifted, strict=True)
    ]


def blind_answers(known: Sequence[Question], questions: Sequence[Question]) -> list[str]:
    """The best guesses without looking: for each question's words the commonest answer in `known`.

    Words that `known` does not have get the commonest answer of the question's ability.
    """
    by_words: dict[str, Counter[str]] = defaultdict(Counter)
    by_ability: dict[str, Counter[str]] = defaultdict(Counter)
    for question in known:
        by_words[question.question][question.answer] += 1
        by_ability[question.ability][question.answer] += 1
    return [
        (by_words.get(question.question) or by_ability[question.ability]).most_common(1)[0][0]
        for question in questions
    ]


def _answer_batch(owl: Owl, questions: Sequence[Question]) -> list[str]:
    tokenizer, size = owl.tokenizer, owl.config.vision.image_size
    rows = [
        tokenize_prompt(
            question.prompt_text,
            tokenizer,
            owl.config.media_length,
            as_trained=owl.as_trained,
        )
        for question in questions
    ]
    length = max(map(len, rows))
    ids = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    images = [preprocess_image(load_image(x), size) for q in questions for x in q.images]
    videos = [load_video(x, NUM_FRAMES, size) for q in questions for x in q.videos]
    tokens = owl.generate(
        ids,
        images=np.stack(images) if images else None,
        videos=np.stack(videos) if videos else None,
        attention_mask=mask,
        max_new_tokens=MAX_ANSWER_TOKENS,
    )
    return [tokenizer.decode(row).strip() for row in tokens]
