"""Single questions of the embedded data set, for evaluation."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from owl_jax.demo.dialogues import KINDS, Dialogue, check_kinds, check_split, compose, write
from owl_jax.demo.drawing import render, render_clip
from owl_jax.demo.knowledge import FACTS, PROBLEMS

QUESTION_KINDS = tuple(kind for kind in KINDS if not kind.endswith(("caption", "description")))


@dataclass(frozen=True)
class Question:
    """One question of an evaluation.

    kind: one of QUESTION_KINDS or of demo/probes.py. ability: colour, shape, count, position,
    comparison, two_images, video, math or facts; for some probes, their kind. prompt_text: in the
    original's format, up to the last "AI: ". images: RGB images in reading order. videos: lists of
    RGB frames.
    """

    kind: str
    ability: str
    question: str
    prompt_text: str
    answer: str
    images: list[Image.Image]
    videos: list[list[Image.Image]]


def questions(
    split: str, seed: int, count: int, kinds: Sequence[str], image_size: int = 96
) -> list[Question]:
    """`count` single questions that cycle through `kinds` (of QUESTION_KINDS).

    text_math and text_facts have closed lists of questions, in a seeded order; none repeats before
    the list ends. Raises UserError for an unknown kind or split.
    """
    check_kinds(kinds, QUESTION_KINDS)
    check_split(split)
    pools = {
        kind: random.Random(f"order {seed}").sample(pool[split], len(pool[split]))
        for kind, pool in (("text_math", PROBLEMS), ("text_facts", FACTS))
    }
    result = []
    for index in range(count):
        round_number, which = divmod(index, len(kinds))
        kind = kinds[which]
        rng = random.Random(f"question {seed} {split} {index}")
        if kind in pools:
            dialogue = Dialogue((), (pools[kind][round_number % len(pools[kind])],))
        else:
            dialogue = compose(kind, rng, split, turns=1)
        result.append(make_question(kind, dialogue, image_size, rng))
    return result


def make_question(kind: str, dialogue: Dialogue, image_size: int, rng: random.Random) -> Question:
    """The last question of a dialogue; `rng` draws the pictures."""
    turn = dialogue.turns[-1]
    return Question(
        kind=kind,
        ability=turn.ability,
        question=turn.question,
        prompt_text=write(dialogue).removesuffix(turn.answer),
        answer=turn.answer,
        images=[render(scene, image_size, rng) for scene in dialogue.scenes],
        videos=[render_clip(clip, image_size, rng) for clip in dialogue.clips],
    )


def normalize_answer(text: str) -> str:
    """Normalises for exact match: lower case, no punctuation, no articles, single spaces."""
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))
