"""A tiny model, and questions for it with pictures, videos and choices."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from owl_jax.evaluation.benchmark import Medium, Question
from owl_jax.evaluation.prompts import Asking

FRAMES = 2
TEXTS = ("What do you see?", "Human and assistant?", "Polite answers to the user?", "A curious?")
CHOICES = ("a human", "polite answers", "a detailed conversation", "AI")


def picture(seed: int) -> bytes:
    """A PNG of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (28, 28, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def picture_files(folder: Path, count: int) -> list[Path]:
    """Files of pictures."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number))
    return paths


def askings(count: int, pictures: list[Path], answer_start: str = "") -> list[Asking]:
    """Questions with no, one and two pictures and with a video, mixed."""
    found = []
    for number in range(count):
        one, other = (
            Medium("image", pictures[(number + shift) % len(pictures)]) for shift in (0, 1)
        )
        clip = Medium("video", (picture(number), pictures[0]))
        media = ((one,), (one, other), (clip,), (), (one,), (one,))[number % 6]
        text = f"{TEXTS[number % len(TEXTS)]} {number}"
        question = Question((*media, text), answer_start)
        found.append(Asking(f"q{number}", question, CHOICES[: 2 + number % 3]))
    return found
