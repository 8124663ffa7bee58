"""Tokens per second of the engine, beside the bare batch that it is made of.

    python benchmarks/serving.py [--width=512] [--layers=8] [--rows=8] [--prompt=128] [--tokens=48]
        [--row_length=256] [--rounds=7]

All requests come at once, and no two prompts begin alike, so nothing is cached. `Owl.generate` runs
them in lockstep, in a cache of exactly their length. The engine prefills them one by one, and
decodes rows of --row_length slots. Greedy, float32, random weights.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from _timing import describe_device, print_table, small_model, take_turns
from absl import flags

from owl_jax import cli
from owl_jax.inference.api import Owl
from owl_jax.inference.engine import Engine
from owl_jax.inference.requests import ChatPrompt, Event, Finished, Request
from owl_jax.models.compute import Compute
from owl_jax.models.vlm import init_params

_WIDTH = flags.DEFINE_integer("width", 512, "of the language model", lower_bound=64)
_LAYERS = flags.DEFINE_integer("layers", 8, "of the language model", lower_bound=1)
_ROWS = flags.DEFINE_integer("rows", 8, "requests at once", lower_bound=1)
_PROMPT = flags.DEFINE_integer("prompt", 128, "tokens of each prompt", lower_bound=1)
_TOKENS = flags.DEFINE_integer("tokens", 48, "new tokens of each request", lower_bound=1)
_LENGTH = flags.DEFINE_integer("row_length", 256, "slots of a row", lower_bound=64)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "timings of each contestant", lower_bound=1)


def main(argv: list[str]) -> None:
    """Prints a table."""
    del argv
    config = small_model(_WIDTH.value, _LAYERS.value)
    params = nn.meta.unbox(jax.jit(partial(init_params, config, Compute()))(jax.random.key(0)))
    owl = Owl(config, params)
    random = np.random.default_rng(0)

    def draw() -> np.ndarray:
        shape = _ROWS.value, _PROMPT.value
        return random.integers(3, config.llm.vocab_size, shape, np.int32)

    def lockstep() -> Callable[[], Any]:
        ids = draw()
        return lambda: owl.generate(ids, max_new_tokens=_TOKENS.value, eos_token_id=-1)

    with Engine(owl, num_rows=_ROWS.value, row_length=_LENGTH.value) as engine:

        def continuous() -> Callable[[], Any]:
            requests = [Request(ChatPrompt(ids), _TOKENS.value) for ids in draw()]
            return lambda: _answer(engine, requests)

        results = take_turns({"Owl.generate": lockstep, "engine": continuous}, _ROUNDS.value)
        compiled = engine.stats().compilations
    tokens = _ROWS.value * _TOKENS.value
    title = (
        f"LLaMA of {_LAYERS.value} x {_WIDTH.value}, {describe_device()}: {_ROWS.value} requests, "
        f"{_PROMPT.value} + {_TOKENS.value} tokens each, rows of {_LENGTH.value}"
    )
    print_table(title, "token", results, tokens)
    print(f"programs compiled outside the engine's warm-up: {compiled}")


def _answer(engine: Engine, requests: list[Request]) -> None:
    """Waits until all requests have been answered."""
    left = threading.Semaphore(0)

    def listen(event: Event) -> None:
        if isinstance(event, Finished):
            assert event.reason == "length", event
            left.release()

    for request in requests:
        engine.submit(request, listen)
    for _ in requests:
        left.acquire()


if __name__ == "__main__":
    cli.run(main)
