"""Prefill and decode; the loop over new tokens runs on the device.

Letters: B sequences, L prompt slots, C slots for new tokens, S = L + C slots in all, D width,
V vocabulary, E end ids.

The prompt takes cache slots 0 .. L-1 with its padding masked, and new token i of every sequence
takes slot L + i. Positions are counted per sequence, so the rest of the batch makes no difference.
L and C are rounded up (prompt.py, BUCKET) to compile few programs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from owl_jax.inference.interrupts import uninterrupted
from owl_jax.inference.prompt import Prompt, round_up
from owl_jax.inference.sampling import Sampling, sample
from owl_jax.models.attention.mask import AttentionMask, self_attention_mask
from owl_jax.models.cache import Cache, with_room, write
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.matmul import bits_of
from owl_jax.models.stack import unstack
from owl_jax.models.vlm import Params, VisionLanguageModel, variables

END_IDS = 8  # released models have at most five

# New tokens per call of `decode`. A call cannot be interrupted, and each costs a dispatch.
_CHUNK = 16


@struct.dataclass
class DecodeState:
    """The state between two decode steps. The newest token is not in the cache yet.

    cache:         keys and values of S slots (models/cache.py).
    tokens:        int32[B, C], the new tokens; pad ids after the end and beyond `count`.
    count:         int32[], number of new tokens, at least 1.
    logits:        float32[B, V], of the newest token.
    done:          bool[B], sequences that have ended.
    lengths:       int32[B], tokens of each prompt: the position of its first new token.
    key_positions: int32[B, S]; key_segments: int32[B, S], 0 on the prompt's padding.
    keys:          key[B], a random key per sequence.
    end_ids:       int32[E], the tokens that end a sequence; -1 for none (`end_ids_array`).
    sampling:      settings of the sampler.
    """

    cache: Cache
    tokens: jax.Array
    count: jax.Array
    logits: jax.Array
    done: jax.Array
    lengths: jax.Array
    key_positions: jax.Array
    key_segments: jax.Array
    keys: jax.Array
    end_ids: jax.Array
    sampling: Sampling


def end_ids_array(ids: Sequence[int]) -> np.ndarray:
    """The ids that end a sequence as int32[E], E a multiple of END_IDS: models share programs."""
    return np.asarray(_whole(np.array(ids or [-1], np.int32), np))


def quickest_form(compute: Compute, params: Params) -> tuple[Compute, Params]:
    """Computation settings and the same weights in the form that decodes fastest.

    Layers are unrolled on a CPU (models/stack.py) and scanned elsewhere. Unrolled weights are views
    of the stacked ones where alignment allows it, for all but tiny layers; large bfloat16 weights
    are viewed as integers (models/matmul.py).
    """
    devices = {device for leaf in jax.tree.leaves(params) for device in leaf.devices()}
    device = devices.pop()
    if devices or device.platform != "cpu":
        return compute, params
    views = jax.tree_util.tree_map_with_path(_view, params)
    return dataclasses.replace(compute, scan_layers=False), jax.device_put(unstack(views), device)


def _view(path: tuple[Any, ...], leaf: jax.Array) -> np.ndarray:
    view = np.asarray(leaf)
    parent, name = (key.key for key in path[-2:])
    # A temporal kernel is a convolution's.
    is_widened = name == "embedding" or (name == "kernel" and parent != "temporal")
    return bits_of(view) if is_widened and view.dtype == jnp.bfloat16 else view


@partial(jax.jit, static_argnames=("config", "compute", "capacity"))
def prefill(
    config: OwlConfig,
    compute: Compute,
    params: Params,
    prompt: Prompt,
    sampling: Sampling,
    key: jax.Array,
    end_ids: int | jax.Array,
    capacity: int,
) -> DecodeState:
    """Reads the prompts and samples the first new token of each; allocates `capacity` slots.

    params: in the form that `compute.scan_layers` requires.
    key: sequence b samples from fold_in(key, b), regardless of the others.
    end_ids: of `end_ids_array`, or a single one.
    """
    run: Any = partial(VisionLanguageModel(config, compute).apply, variables(params))
    B, L = prompt.input_ids.shape
    positions, key_segments = jnp.asarray(prompt.positions), jnp.asarray(prompt.key_segments)
    media = prompt.images, prompt.videos, prompt.media_index
    embeddings = run(prompt.input_ids, *media, method="embed")
    modality = run(*media, method="modality")
    mask = self_attention_mask(positions, jnp.ones((B, L), jnp.int32))
    mask = dataclasses.replace(mask, key_segments=key_segments)
    hidden, cache = run(embeddings, mask, modality=modality, method="hidden_states")
    last = jnp.take_along_axis(hidden, prompt.last[:, None, None], axis=1)
    logits = run(last, method="head")[:, 0]

    new_positions = prompt.lengths[:, None] + jnp.arange(capacity)
    state = DecodeState(
        cache=with_room(cache, capacity),
        tokens=jnp.full((B, capacity), config.llm.pad_token_id, jnp.int32),
        count=jnp.zeros((), jnp.int32),
        logits=logits,
        done=jnp.zeros(B, bool),
        lengths=jnp.asarray(prompt.lengths),
        key_positions=jnp.concatenate([positions, new_positions], axis=1),
        key_segments=jnp.pad(key_segments, ((0, 0), (0, capacity)), constant_values=1),
        keys=jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(B)),
        end_ids=_whole(jnp.atleast_1d(jnp.asarray(end_ids, jnp.int32))),
        sampling=sampling,
    )
    return _append_token(config, state, logits)


@partial(jax.jit, static_argnames=("config", "compute"), donate_argnames=("state",))
def decode(
    config: OwlConfig,
    compute: Compute,
    params: Params,
    state: DecodeState,
    until: int | jax.Array,
) -> DecodeState:
    """Decodes until there are `until` new tokens (at most C) or all sequences are done.

    Donates `state`. The program is the same for every `until`.
    """
    run: Any = partial(VisionLanguageModel(config, compute).apply, variables(params))
    B, C = state.tokens.shape
    L = state.key_segments.shape[1] - C
    until = jnp.minimum(until, C)

    def unfinished(state: DecodeState) -> jax.Array:
        return (state.count < until) & ~state.done.all()

    def step(state: DecodeState) -> DecodeState:
        newest = state.count - 1
        slot = L + newest
        token = jax.lax.dynamic_slice_in_dim(state.tokens, newest, 1, axis=1)
        mask = AttentionMask(
            query_slots=slot[None],
            query_positions=(state.lengths + newest)[:, None],
            query_segments=jnp.ones((B, 1), jnp.int32),
            key_positions=state.key_positions,
            key_segments=state.key_segments,
        )
        no_media = jnp.full((B, 1), -1, jnp.int32)
        embeddings = run(token, None, None, no_media, method="embed")
        hidden, new = run(embeddings, mask, state.cache, method="hidden_states")
        logits = run(hidden, method="head")[:, 0]
        state = _append_token(config, state, logits)
        # Masking ended sequences makes the write depend on the logits. Otherwise XLA on a CPU
        # writes before all layers have read the cache, and copies the cache for it.
        active = ~state.done[:, None, None, None]
        new = jax.tree.map(lambda leaf: jnp.where(active, leaf, 0), new)
        return dataclasses.replace(state, cache=write(state.cache, new, slot))

    return jax.lax.while_loop(unfinished, step, state)


def generate(
    config: OwlConfig,
    compute: Compute,
    params: Params,
    prompt: Prompt,
    max_new_tokens: int,
    sampling: Sampling,
    key: jax.Array,
    end_ids: np.ndarray,
) -> np.ndarray:
    """Returns the new tokens, int32[B, max_new_tokens], with pad ids after the end.

    An interrupt is raised between two chunks of tokens, when the device is idle.
    """
    capacity = round_up(max_new_tokens)
    with uninterrupted():
        state = prefill(config, compute, params, prompt, sampling, key, end_ids, capacity)
        jax.block_until_ready(state)
    until = 1
    while until < max_new_tokens and int(state.count) == until:
        until = min(until + _CHUNK, max_new_tokens)
        with uninterrupted():
            state = jax.block_until_ready(decode(config, compute, params, state, until))
    return np.asarray(state.tokens)[:, :max_new_tokens]


def _whole(end_ids: Any, xp: Any = jnp) -> Any:
    """Ids padded with -1 to a multiple of END_IDS. xp: NumPy or jax.numpy."""
    return xp.pad(end_ids, (0, -len(end_ids) % END_IDS), constant_values=-1)


def _append_token(config: OwlConfig, state: DecodeState, logits: jax.Array) -> DecodeState:
    """Appends a sampled token to each sequence, or the pad id if it is done."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.count)
    token = jnp.where(state.done, config.llm.pad_token_id, sample(logits, keys, state.sampling))
    write = jax.lax.dynamic_update_slice_in_dim
    return dataclasses.replace(
        state,
        tokens=write(state.tokens, token[:, None], state.count, axis=1),
        count=state.count + 1,
        logits=logits,
        done=state.done | (token[:, None] == state.end_ids).any(axis=1),
    )
