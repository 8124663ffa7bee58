"""Continues a batch of prompts that begin together (inference/core.py).

Letters: B sequences, L prompt tokens, S slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from owl_jax.inference.core import (
    MAX_STEPS,
    DecodeState,
    decode_steps,
    make_rows,
    prefill,
    start_batch,
)
from owl_jax.inference.interrupts import uninterrupted
from owl_jax.inference.prompt import Prompt, round_up
from owl_jax.inference.sampling import Sampling, row_keys
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.vlm import Params

OnDevice = Callable[[], AbstractContextManager[None]]  # the context of work on the device


@dataclass(frozen=True)
class Batch:
    """Prompts and the settings that they share.

    max_new_tokens: at least 1; prompt and new tokens together fit into the model.
    end_ids: the tokens that end a sequence.
    """

    prompt: Prompt
    max_new_tokens: int
    sampling: Sampling
    seed: int
    end_ids: tuple[int, ...]


def new_tokens(
    config: OwlConfig,
    compute: Compute,
    params: Params,
    batch: Batch,
    on_device: OnDevice,
    chunk: int = MAX_STEPS,
) -> Iterator[np.ndarray]:
    """Yields the new tokens of each step, int32[B]: -1 for a sequence that has ended.

    The device is idle at each yield, so an interrupt is raised there and the iterator may be
    dropped.

    chunk: steps between two returns to the host, at most MAX_STEPS.
    """

    def step(function: Any, *arguments: Any) -> Any:
        with uninterrupted(), on_device():
            return jax.block_until_ready(function(*arguments))

    def start() -> tuple[DecodeState, jax.Array]:
        prompt, B = batch.prompt, len(batch.prompt.lengths)
        rows = make_rows(
            config,
            [batch.sampling] * B,
            row_keys(batch.seed, B),
            [batch.end_ids] * B,
            [batch.max_new_tokens] * B,
            prompts=_ids_of(prompt) if batch.sampling.penalizes else None,
        )
        slots = round_up(prompt.input_ids.shape[1] + batch.max_new_tokens)
        prefilled = prefill(config, compute, params, prompt)
        return start_batch(prefilled, prompt.lengths, rows, slots)

    state, first = step(start)
    yield fetched(first)
    count = 1
    while count < batch.max_new_tokens and not fetched(state.rows.done).all():
        steps = min(chunk, batch.max_new_tokens - count)
        state, found = step(decode_steps, config, compute, params, state, steps)
        for tokens in fetched(found.ids)[:steps]:
            if (tokens < 0).all():
                break
            yield tokens
        count += steps


def fetched(array: jax.Array) -> np.ndarray:
    """An array on the host. If other processes have parts of it, all of them must call this."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(process_allgather(array, tiled=True))


def _ids_of(prompt: Prompt) -> Sequence[np.ndarray]:
    """The token ids of each prompt, without media."""
    rows = zip(prompt.input_ids, prompt.media_index, prompt.lengths, strict=True)
    return [ids[:length][index[:length] < 0] for ids, index, length in rows]


def generate(
    config: OwlConfig,
    compute: Compute,
    params: Params,
    batch: Batch,
    on_device: OnDevice,
) -> np.ndarray:
    """Returns the new tokens, int32[B, max_new_tokens], with pad ids after the end."""
    B = len(batch.prompt.lengths)
    tokens = np.full((B, batch.max_new_tokens), config.llm.pad_token_id, np.int32)
    for i, step in enumerate(new_tokens(config, compute, params, batch, on_device)):
        tokens[:, i] = np.where(step < 0, config.llm.pad_token_id, step)
    return tokens
