"""Tokens per second of the engine and of servers, beside the bare batch that the engine is made of.

    python benchmarks/serving.py [--width=512] [--layers=8] [--model=DIR] [--dtype=float32]
        [--rows=8] [--prompt=128] [--tokens=48] [--row_length=256] [--rounds=7]
        [--server=NAME=URL ...] [--cpu]

All requests come at once, and no two prompts begin alike, so nothing is cached. `Owl.generate` runs
them in lockstep, in a cache of exactly their length. The engine decodes rows of --row_length slots.
Greedy, random weights unless --model names a directory.

--server is a running server of OpenAI's API, ours or another; NAME is its model's. It gets the same
number of requests, as streams of /v1/completions, and a second table has the median time to the
first token. The benchmark is its only client, so with the model of --model it is comparable with
the engine. If the model sees, prompts with pictures whose vectors are cached are timed too, and the
first token of a conversation's next turn. --cpu counts this process's CPU time instead, which other
load distorts less; servers are left out.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import flax.linen as nn
import httpx
import jax
import numpy as np
from _timing import describe_device, print_table, small_model, take_turns
from absl import flags

import owl_jax
from owl_jax import cli
from owl_jax.inference.api import Owl
from owl_jax.inference.engine import Engine
from owl_jax.inference.requests import ChatPrompt, Event, Finished, Request
from owl_jax.models.compute import Compute
from owl_jax.models.vlm import init_params

_WIDTH = flags.DEFINE_integer("width", 512, "of the language model", lower_bound=64)
_LAYERS = flags.DEFINE_integer("layers", 8, "of the language model", lower_bound=1)
_MODEL = flags.DEFINE_string("model", None, "a directory, instead of random weights")
_DTYPE = flags.DEFINE_string("dtype", "float32", "of the weights of --model")
_SERVERS = flags.DEFINE_multi_string("server", [], "NAME=URL of a running server; repeatable")
_CPU = flags.DEFINE_bool("cpu", False, "count CPU time")
_ROWS = flags.DEFINE_integer("rows", 8, "requests at once", lower_bound=1)
_PROMPT = flags.DEFINE_integer("prompt", 128, "tokens of each prompt", lower_bound=1)
_TOKENS = flags.DEFINE_integer("tokens", 48, "new tokens of each request", lower_bound=1)
_LENGTH = flags.DEFINE_integer("row_length", 256, "slots of a row", lower_bound=64)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "timings of each contestant", lower_bound=1)

_NEXT = 32  # tokens of a conversation's next turn


def main(argv: list[str]) -> None:
    """Prints a table."""
    del argv
    owl = owl_jax.load(_MODEL.value, _DTYPE.value) if _MODEL.value else _random_owl()
    random = np.random.default_rng(0)
    first_tokens: dict[str, list[float]] = {}

    def draw() -> np.ndarray:
        shape = _ROWS.value, _PROMPT.value
        return random.integers(3, owl.config.llm.vocab_size, shape, np.int32)

    def lockstep() -> Callable[[], Any]:
        ids = draw()
        return lambda: owl.generate(ids, max_new_tokens=_TOKENS.value, eos_token_id=-1)

    def server(name: str, url: str) -> Callable[[], Any]:
        ids, seconds = draw(), first_tokens.setdefault(name, [])
        return lambda: seconds.append(asyncio.run(_ask(name, url, ids)))

    with Engine(owl, num_rows=_ROWS.value, row_length=_LENGTH.value) as engine:

        def continuous() -> Callable[[], Any]:
            requests = [Request(ChatPrompt(ids), _TOKENS.value) for ids in draw()]
            return lambda: _answer(engine, requests)

        def with_pictures() -> Callable[[], Any]:
            prompts = [_with_picture(owl, ids, seed) for seed, ids in enumerate(draw())]
            requests = [Request(prompt, _TOKENS.value) for prompt in prompts]
            return lambda: _answer(engine, requests)

        def first_turn() -> Callable[[], Any]:
            prompt = _with_picture(owl, draw()[0], random.integers(2**32))
            return lambda: _answer(engine, [Request(prompt, 1)])

        def next_turn() -> Callable[[], Any]:
            prompt = _with_picture(owl, draw()[0], random.integers(2**32))
            _answer(engine, [Request(prompt, 1)])
            ids = np.concatenate([prompt.input_ids, draw()[0, :_NEXT]])
            return lambda: _answer(engine, [Request(replace(prompt, input_ids=ids), 1)])

        contestants = {"Owl.generate": lockstep, "engine": continuous}
        if not owl.config.text_only:
            contestants["engine, cached pictures"] = with_pictures
        for name, _, url in (given.partition("=") for given in _SERVERS.value):
            if not _CPU.value:
                contestants[f"server {name}"] = partial(server, name, url)
        clock = time.process_time if _CPU.value else time.perf_counter
        results = take_turns(contestants, _ROUNDS.value, clock)
        turns = {"first turn": first_turn, "next turn": next_turn}
        by_turn = {} if owl.config.text_only else take_turns(turns, _ROUNDS.value, clock)
        compiled = engine.stats().compilations
    tokens = _ROWS.value * _TOKENS.value
    llm = owl.config.llm
    title = (
        f"{llm.architecture} of {llm.num_layers} x {llm.hidden_size}, {describe_device()}: "
        f"{_ROWS.value} requests, {_PROMPT.value} + {_TOKENS.value} tokens each, rows of "
        f"{_LENGTH.value}{', CPU time' if _CPU.value else ''}"
    )
    print_table(title, "token", results, tokens)
    print(f"programs compiled outside the engine's warm-up: {compiled}")
    if by_turn:
        title = f"To the first token: {_PROMPT.value} tokens with a picture, then {_NEXT} more"
        print_table(title, "turn", by_turn)
    for name, seconds in first_tokens.items():
        print(f"time to the first token, {name}: {1000 * median(seconds[1:]):.0f} ms")


def _random_owl() -> Owl:
    config = small_model(_WIDTH.value, _LAYERS.value)
    params = nn.meta.unbox(jax.jit(partial(init_params, config, Compute()))(jax.random.key(0)))
    return Owl(config, params)


def _with_picture(owl: Owl, ids: np.ndarray, seed: int) -> ChatPrompt:
    """A prompt of the same length, of which a picture takes some tokens after the first."""
    size = owl.config.image_size
    picture = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    at = slice(1, 1 + owl.num_tokens("image"))
    return ChatPrompt(
        np.concatenate([ids[:1], np.full_like(ids[at], -1), ids[at.stop :]]), [picture]
    )


async def _ask(model: str, url: str, prompts: np.ndarray) -> float:
    """Asks a server all prompts. Returns the median seconds to the first token of each."""
    start = time.perf_counter()

    async def first_token(client: httpx.AsyncClient, ids: np.ndarray) -> float:
        body = {"model": model, "prompt": ids.tolist(), "max_tokens": _TOKENS.value}
        options = {"temperature": 0, "ignore_eos": True, "stream": True}
        first = 0.0
        async with client.stream("POST", "/v1/completions", json=body | options) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if line.startswith("data: {") and not first:
                    first = time.perf_counter() - start
        return first

    async with httpx.AsyncClient(base_url=url, timeout=None, trust_env=False) as client:
        return median(await asyncio.gather(*(first_token(client, ids) for ids in prompts)))


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
