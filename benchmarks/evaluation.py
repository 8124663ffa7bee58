"""Questions of a benchmark per second: asked together, one by one, by rank and by letter.

    python benchmarks/evaluation.py [--width=256] [--layers=4] [--items=512] [--pictures=128]
        [--tokens=32] [--rows=32] [--rounds=1] [--cpu_time]

Each question shows one of the pictures, in files, and has four choices. "one by one" calls
`Owl.chat` for each. Greedy, float32, random weights; the programs are compiled before. --cpu_time
counts seconds of the processor, which depend less on other load.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from _timing import describe_device, print_table, small_model, take_turns
from absl import flags
from PIL import Image

from owl_jax import cli
from owl_jax.evaluation.ask import Progress, Settings, ask
from owl_jax.evaluation.benchmark import Medium, Mode, Question
from owl_jax.evaluation.prompts import Asking
from owl_jax.inference.api import Owl
from owl_jax.models.compute import Compute
from owl_jax.models.vlm import init_params
from owl_jax.text.tokenizer import train_sentencepiece
from owl_jax.text.turns import SYSTEM

_WIDTH = flags.DEFINE_integer("width", 256, "of the language model", lower_bound=64)
_LAYERS = flags.DEFINE_integer("layers", 4, "of the language model", lower_bound=1)
_ITEMS = flags.DEFINE_integer("items", 512, "questions", lower_bound=1)
_PICTURES = flags.DEFINE_integer("pictures", 128, "that they show in turn", lower_bound=1)
_TOKENS = flags.DEFINE_integer("tokens", 32, "of an answer", lower_bound=1)
_ROWS = flags.DEFINE_integer("rows", 32, "questions in the engine at once", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 1, "timings of each contestant", lower_bound=1)
_CPU_TIME = flags.DEFINE_bool("cpu_time", False, "count seconds of the processor")

_CHOICES = ("a red circle", "the blue square on the left", "two of them", "nothing of this")


def main(argv: list[str]) -> None:
    """Prints two tables."""
    del argv
    config = small_model(_WIDTH.value, _LAYERS.value)
    params = nn.meta.unbox(jax.jit(partial(init_params, config, Compute()))(jax.random.key(0)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_sentencepiece([SYSTEM, "Human: AI: ", *_CHOICES], 380, folder / "tokenizer.model")
        owl = Owl(config, params, tokenizer_source=folder)
        askings = _askings(folder)
        numbers = itertools.count()

        def together(mode: Mode) -> Callable[[], Any]:
            def run() -> None:
                settings = Settings(mode, _TOKENS.value)
                found = ask(
                    owl,
                    askings,
                    settings,
                    folder / f"{next(numbers)}",
                    {},
                    num_rows=_ROWS.value,
                    row_length=320,
                    tell=_say_nothing,
                )
                assert len(found.answers) == _ITEMS.value, found.failed

            return run

        def one_by_one() -> Callable[[], Any]:
            return lambda: [_chat(owl, asking) for asking in askings]

        title = (
            f"LLaMA of {_LAYERS.value} x {_WIDTH.value}, {describe_device()}: {_ITEMS.value} "
            f"questions about {_PICTURES.value} pictures"
        )
        generated = {"one by one": one_by_one, "together": partial(together, "generate")}
        clock = time.process_time if _CPU_TIME.value else time.perf_counter
        results = take_turns(generated, _ROUNDS.value, clock)
        print_table(f"{title}, {_TOKENS.value} tokens each", "question", results, _ITEMS.value)
        chosen = {mode: partial(together, mode) for mode in ("letter", "rank")}
        results = take_turns(chosen, max(_ROUNDS.value, 3), clock)
        print_table(f"{title}, 4 choices", "question", results, _ITEMS.value)


def _askings(folder: Path) -> list[Asking]:
    random = np.random.default_rng(0)
    for number in range(_PICTURES.value):
        pixels = random.integers(0, 256, (224, 224, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return [
        Asking(
            str(number),
            Question(
                (
                    Medium(
                        "image", folder / f"{number // -(-_ITEMS.value // _PICTURES.value)}.jpg"
                    ),
                    f"Which of them is number {number} of all that you see here?",
                )
            ),
            _CHOICES,
        )
        for number in range(_ITEMS.value)
    ]


def _chat(owl: Owl, asking: Asking) -> str:
    picture, text = asking.question.parts
    assert isinstance(picture, Medium) and isinstance(text, str)
    parts = [{"type": "image", "image": picture.source}, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": parts}]
    answer = owl.chat(messages, max_new_tokens=_TOKENS.value)
    assert isinstance(answer, str)
    return answer


def _say_nothing(progress: Progress) -> None:
    """Progress would be among the numbers."""


if __name__ == "__main__":
    cli.run(main)
