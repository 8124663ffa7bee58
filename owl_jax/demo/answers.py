"""Asks a model the questions of the embedded data set, and scores the answers by exact match.

Answers are normalised (case, punctuation, articles) before they are compared.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from owl_jax.demo.questions import Question, normalize_answer
from owl_jax.inference.api import Owl
from owl_jax.inference.arguments import NUM_FRAMES
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

    Questions with the same number of media share a batch, so that no media slot is empty.
    progress: called with the number of answers of each batch.
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, question in enumerate(questions):
        groups[len(question.images), len(question.videos)].append(i)
    answers = [""] * len(questions)
    for members in groups.values():
        for start in range(0, len(members), batch_size):
            batch = members[start : start + batch_size]
            # Fill the last batch: a smaller one would need another compilation.
            filled = (batch * batch_size)[:batch_size] if start else batch
            for i, text in zip(
                batch, _answer_batch(owl, [questions[j] for j in filled]), strict=False
            ):
                answers[i] = text
            progress(len(batch))
    return answers


def accuracy(questions: Sequence[Question], answers: Sequence[str]) -> float:
    """The share of correct answers."""
    right = [
        normalize_answer(question.answer) == normalize_answer(given)
        for question, given in zip(questions, answers, strict=True)
    ]
    return float(np.mean(right))


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


def _answer_batch(owl: Owl, questions: Sequence[Question]) -> list[str]:
    tokenizer, size = owl.tokenizer, owl.config.image_size
    resizing = owl.config.resizing
    prompts = [
        tokenize_prompt(
            question.prompt_text,
            tokenizer,
            owl.config.media_lengths(NUM_FRAMES),
            as_trained=owl.as_trained,
            format=owl.format,
        )
        for question in questions
    ]
    length = max(map(len, prompts))
    ids = np.zeros((len(prompts), length), np.int32)
    mask = np.zeros((len(prompts), length), np.int32)
    for i, prompt in enumerate(prompts):
        ids[i, : len(prompt)], mask[i, : len(prompt)] = prompt, 1
    images = [preprocess_image(load_image(x), size, resizing) for q in questions for x in q.images]
    videos = [
        load_video(x, NUM_FRAMES, size, resizing=resizing) for q in questions for x in q.videos
    ]
    tokens = owl.generate(
        ids,
        images=np.stack(images) if images else None,
        videos=np.stack(videos) if videos else None,
        attention_mask=mask,
        max_new_tokens=MAX_ANSWER_TOKENS,
    )
    return [tokenizer.decode(new).strip() for new in tokens]
