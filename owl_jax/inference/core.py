"""The inference core: prefill, insert and decode over rows that are independent of each other.

Letters: B rows, S slots of a row, W rows that are decoded, P prompts, L tokens, C steps, E end ids,
N alternatives with log-probabilities, V vocabulary, D width.

A row is a sequence in progress. It has its own length, sampling settings, end ids and limits, so
rows begin and end at different times, and a row's tokens do not depend on the others. `prefill`
reads a prompt, or a piece of one after the pieces before it; `insert` puts the result into a row;
`begin` samples its first token; `decode_steps` advances all active rows by several tokens in one
call. Chat, batches, the engine and the compiler's programs all run these functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from owl_jax.errors import UserError
from owl_jax.inference.prompt import Prompt
from owl_jax.inference.sampling import END_IDS, Array, Sampling, SamplingRows, penalize, sample
from owl_jax.models.attention.mask import PastTokens, self_attention_mask
from owl_jax.models.cache import (
    AXES,
    Cache,
    copy_row,
    empty_cache,
    write_all,
    write_row,
    write_tokens,
)
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.lora import activate
from owl_jax.models.vlm import Params, VisionLanguageModel, variables

OWNERS = "adapter_owners"  # beside "lora" in parameters with several adapters

MAX_STEPS = 16  # of one call of `decode_steps`


@struct.dataclass
class Rows:
    """B rows, without their keys and values.

    lengths:    int32[B], tokens in the cache. The newest token is not among them.
    newest:     int32[B], the newest token.
    counts:     int32[B], new tokens so far.
    adapters:   int32[B], the adapter of each row, 0 for none, if the parameters have several.
    max_tokens: int32[B], new tokens at most; min_tokens: int32[B], no end id before these.
    done:       bool[B], rows that are not decoded: they have ended, or are free.
    end_ids:    int32[B, E], the tokens that end a row; -1 for none.
    sampling:   settings of the sampler.
    in_prompt:  bool[B, V], in_answer: int32[B, V]: tokens of the prompt, and how often the answer
      has each; for penalties. [B, 0] if no row has penalties.
    allowed:    uint32[B, V / 32], a bit for each token that may come next; [B, 0]: any token.
    """

    lengths: Array
    newest: Array
    counts: Array
    adapters: Array
    max_tokens: Array
    min_tokens: Array
    done: Array
    end_ids: Array
    sampling: SamplingRows
    in_prompt: Array
    in_answer: Array
    allowed: Array


@struct.dataclass
class DecodeState:
    """Rows with their keys and values (models/cache.py)."""

    cache: Cache
    rows: Rows


@struct.dataclass
class Prefilled:
    """A prompt's keys and values, structured like the cache, and the logits of its last token,
    float32[P, V]."""

    new: Cache
    logits: jax.Array


@struct.dataclass
class NewTokens:
    """What `decode_steps` sampled.

    ids: int32[C, W], -1 where a row was not active.
    logprobs: float32[C, W], of the tokens, before penalties and temperature.
    top_ids: int32[C, W, N], top_logprobs: float32[C, W, N]: the likeliest tokens, best first.
    """

    ids: jax.Array
    logprobs: jax.Array
    top_ids: jax.Array
    top_logprobs: jax.Array


def make_rows(
    config: OwlConfig,
    sampling: Sequence[Sampling],
    keys: jax.Array,
    end_ids: Sequence[Sequence[int]],
    max_tokens: Sequence[int],
    min_tokens: Sequence[int] | None = None,
    prompts: Sequence[Any] | None = None,
    has_allowed: bool = False,
    adapter: int = 0,
) -> Rows:
    """The settings of B rows that are about to begin.

    keys: key[B]. prompts: the token ids of each prompt, for repetition penalties; without them no
      row has penalties. has_allowed: make room for the tokens that may come next.
    """
    B, V = len(sampling), config.llm.vocab_size
    in_prompt = np.zeros((B, 0 if prompts is None else V), bool)
    for row, ids in enumerate(prompts or ()):
        in_prompt[row, np.asarray([id for id in ids if id >= 0], int)] = True
    zeros = np.zeros(B, np.int32)
    return Rows(
        lengths=zeros,
        newest=zeros,
        counts=zeros,
        adapters=np.full(B, adapter, np.int32),
        max_tokens=np.asarray(max_tokens, np.int32),
        min_tokens=zeros if min_tokens is None else np.asarray(min_tokens, np.int32),
        done=np.zeros(B, bool),
        end_ids=end_ids_array(end_ids),
        sampling=SamplingRows.of(sampling, keys),
        in_prompt=in_prompt,
        in_answer=np.zeros(in_prompt.shape, np.int32),
        allowed=np.full((B, -(-V // 32) if has_allowed else 0), 2**32 - 1, np.uint32),
    )


def end_ids_array(end_ids: Sequence[Sequence[int]]) -> np.ndarray:
    """int32[B, E], padded with -1; E a multiple of END_IDS, so that models share programs."""
    most = max([1, *map(len, end_ids)])
    whole = np.full((len(end_ids), -(-most // END_IDS) * END_IDS), -1, np.int32)
    for row, ids in enumerate(end_ids):
        whole[row, : len(ids)] = ids
    return whole


@partial(jax.jit, static_argnames=("config", "compute"))
def encode(
    config: OwlConfig,
    compute: Compute,
    params: Params,
    images: jax.Array | None = None,
    videos: jax.Array | None = None,
) -> jax.Array | None:
    """The vectors of each prompt's media, [P, vectors, D]: `Prompt.media` for `prefill`.

    images: [P, N, S, S, 3]; videos: [P, M, T, S, S, 3].
    """
    return _apply(config, compute, params)(images, videos, method="media_table")


@partial(jax.jit, static_argnames=("config", "compute"))
def prefill(
    config: OwlConfig,
    compute: Compute,
    params: Params,
    prompt: Prompt,
    cache: Cache | None = None,
    past: PastTokens | None = None,
    adapters: Array | None = None,
) -> Prefilled:
    """Reads P prompts, or pieces of prompts whose earlier pieces are in the cache.

    params: in the form that `compute.scan_layers` requires.
    past: which rows of `cache` hold the earlier tokens of each prompt, and how many.
    adapters: int32[P], the adapter of each prompt, 0 for none, if `params` has several.
    """
    run = _apply(config, compute, params, adapters)
    P, L = prompt.input_ids.shape
    positions = jnp.broadcast_to(jnp.arange(L), (P, L))
    segments = (positions < jnp.asarray(prompt.lengths)[:, None]).astype(jnp.int32)
    if past is not None:
        positions += past.lengths[:, None]
    media = prompt.media
    if media is None:
        media = run(prompt.images, prompt.videos, method="media_table")
    embeddings = run(prompt.input_ids, media, prompt.media_index, method="embed")
    modality = run(media, prompt.media_index, method="modality")
    mask = self_attention_mask(positions, jnp.ones((P, L), jnp.int32), past)
    mask = dataclasses.replace(mask, key_segments=segments)
    hidden, new = run(embeddings, mask, cache, modality=modality, method="hidden_states")
    if compute.cache_dtype == "int8" and not any(x.dtype == jnp.int8 for x in jax.tree.leaves(new)):
        raise UserError(
            "cache_dtype is int8, but the language model does not quantise its keys and values; "
            "its layers must call cached_form (docs/add_a_language_model.md)"
        )
    last = jnp.asarray(prompt.lengths)[:, None, None] - 1
    logits = run(jnp.take_along_axis(hidden, last, axis=1), method="head")[:, 0]
    return Prefilled(new, logits)


@partial(jax.jit, static_argnames=("num_slots",))
def start_batch(
    prefilled: Prefilled, lengths: jax.Array, rows: Rows, num_slots: int
) -> tuple[DecodeState, jax.Array]:
    """Begins P rows at once: a state of P rows, and the first token of each, int32[P].

    lengths: int32[P], tokens of each prompt. num_slots: S, at least L.
    """
    cache = empty_cache(prefilled.new, len(lengths), num_slots)
    rows, tokens = _advance(dataclasses.replace(rows, lengths=lengths), prefilled.logits)
    state = DecodeState(write_all(cache, prefilled.new), rows)
    return constrain(state), tokens.ids[0]


@partial(jax.jit, static_argnames=("config", "compute", "num_rows", "num_slots"))
def empty_state(
    config: OwlConfig, compute: Compute, params: Params, num_rows: int, num_slots: int
) -> DecodeState:
    """A state of free rows, for any settings."""
    tokens = np.zeros((1, 1), np.int32)
    prompt = Prompt(tokens, tokens - 1, np.ones(1, np.int32))
    new = jax.eval_shape(partial(prefill, config, compute), params, prompt).new
    settings, keys = [Sampling()] * num_rows, jax.random.split(jax.random.key(0), num_rows)
    ids: list[list[int]] = [[]] * num_rows
    zeros = [0] * num_rows
    rows = make_rows(config, settings, keys, ids, zeros, zeros, ids, has_allowed=True)
    rows = jax.tree.map(jnp.asarray, dataclasses.replace(rows, done=np.ones(num_rows, bool)))
    return constrain(DecodeState(empty_cache(new, num_rows, num_slots), rows))


@partial(jax.jit, donate_argnames=("state",))
def insert(
    state: DecodeState, prefilled: Prefilled, rows: Array, starts: Array, lengths: Array
) -> DecodeState:
    """Writes the keys and values of P prompts, or pieces of prompts, into rows int32[P] from slots
    `starts` int32[P] on. The rows must be free and starts + L at most S.

    lengths: int32[P], tokens in the rows afterwards; decoding of other rows may overwrite the slot
      after them.
    """
    cache, held = state.cache, state.rows
    for prompt in range(len(rows)):
        one = jax.tree.map(
            lambda leaf, at=prompt: jax.lax.slice_in_dim(leaf, at, at + 1, axis=leaf.ndim - 4),
            prefilled.new,
        )
        cache = write_row(cache, one, rows[prompt], starts[prompt])
        held = _with_length(held, rows[prompt], lengths[prompt])
    return DecodeState(cache, held)


@partial(jax.jit, static_argnames=("num_logprobs",), donate_argnames=("state",))
def begin(
    state: DecodeState,
    row: Array,
    length: Array,
    logits: jax.Array,
    settings: Rows,
    num_logprobs: int | None = None,
) -> tuple[DecodeState, NewTokens]:
    """Begins a row whose prompt of `length` tokens has been inserted: samples its first token.

    logits: float32[1, V], of the prompt's last token. settings: one row of `make_rows`.
    """
    settings = dataclasses.replace(settings, lengths=jnp.reshape(length, 1))
    begun, tokens = _advance(settings, logits, num_logprobs)
    rows = jax.tree.map(lambda old, new: old.at[row].set(new[0]), state.rows, begun)
    return dataclasses.replace(state, rows=rows), tokens


@partial(jax.jit, donate_argnames=("state",))
def release(state: DecodeState, row: Array, length: Array) -> DecodeState:
    """Frees a row. The keys and values of its first `length` tokens stay, for prompts that begin
    with the same tokens."""
    rows = dataclasses.replace(state.rows, done=state.rows.done.at[row].set(True))
    return dataclasses.replace(state, rows=_with_length(rows, row, length))


@partial(jax.jit, donate_argnames=("state",))
def copy(state: DecodeState, source: Array, target: Array, length: Array) -> DecodeState:
    """Copies the keys and values of row `source` to the free row `target`, which then has `length`
    tokens."""
    cache = copy_row(state.cache, source, target)
    return DecodeState(cache, _with_length(state.rows, target, length))


@partial(jax.jit, donate_argnames=("state",))
def allow(state: DecodeState, row: Array, allowed: Array) -> DecodeState:
    """Sets the tokens that may come next in a row: uint32[V / 32], a bit each."""
    rows = dataclasses.replace(state.rows, allowed=state.rows.allowed.at[row].set(allowed))
    return dataclasses.replace(state, rows=rows)


@partial(
    jax.jit,
    static_argnames=("config", "compute", "num_logprobs"),
    donate_argnames=("state",),
)
def decode_steps(
    config: OwlConfig,
    compute: Compute,
    params: Params,
    state: DecodeState,
    steps: int | jax.Array,
    which: jax.Array | None = None,
    num_logprobs: int | None = None,
) -> tuple[DecodeState, NewTokens]:
    """Samples up to `steps` tokens of each active row, or until all have ended. Donates `state`.

    The program is the same for every number of steps, at most MAX_STEPS.

    which: int32[W], distinct rows that are decoded, among them all active ones; None: all rows. On
      a CPU the time grows with W; elsewhere it hardly does.
    num_logprobs: N; None: no log-probabilities.
    """
    rows = state.rows
    if which is not None:
        rows = jax.tree.map(lambda leaf: leaf[which], rows)
    run = _apply(config, compute, params, rows.adapters)
    W = len(rows.done)
    found = NewTokens(
        jnp.full((MAX_STEPS, W), -1, jnp.int32), *_logprobs(MAX_STEPS, W, num_logprobs)
    )
    steps = jnp.minimum(steps, MAX_STEPS)
    ones, no_media = jnp.ones((W, 1), jnp.int32), jnp.full((W, 1), -1, jnp.int32)

    def unfinished(carry: tuple[jax.Array, Cache, Rows, NewTokens]) -> jax.Array:
        step, _, rows, _ = carry
        return (step < steps) & ~rows.done.all()

    def advance(
        carry: tuple[jax.Array, Cache, Rows, NewTokens],
    ) -> tuple[jax.Array, Cache, Rows, NewTokens]:
        step, cache, rows, found = carry
        slots = rows.lengths
        # Nothing of a row that has ended needs to be read.
        held = jnp.where(rows.done, 0, slots)
        mask = self_attention_mask(slots[:, None], ones, PastTokens(held, which))
        embeddings = run(rows.newest[:, None], None, no_media, method="embed")
        hidden, new = run(embeddings, mask, cache, method="hidden_states")
        logits = run(hidden, method="head")[:, 0]
        rows = dataclasses.replace(rows, lengths=slots + ~rows.done)
        rows, tokens = _advance(rows, logits, num_logprobs)
        # Without a dependency on the logits, XLA on a CPU writes before all layers have read the
        # cache, and copies the cache for it. No token is negative.
        written = (rows.newest >= 0)[:, None, None, None]
        new = jax.tree.map(lambda leaf: jnp.where(written, leaf, 0), new)
        cache = write_tokens(cache, new, which, slots)
        put = jax.lax.dynamic_update_slice_in_dim
        found = jax.tree.map(lambda old, new: put(old, new, step, 0), found, tokens)
        return step + 1, cache, rows, found

    start = jnp.zeros((), jnp.int32)
    _, cache, rows, found = jax.lax.while_loop(
        unfinished, advance, (start, state.cache, rows, found)
    )
    if which is not None:
        rows = jax.tree.map(lambda old, new: old.at[which].set(new), state.rows, rows)
    return DecodeState(cache, rows), found


def logical_axes(state: DecodeState) -> DecodeState:
    """The logical names (parallel/sharding.py) of the dimensions of each leaf, as tuples."""

    def of_cache(leaf: Any) -> tuple[str | None, ...]:
        return (*["layers"] * (leaf.ndim - len(AXES)), *AXES)

    def of_rows(leaf: Any) -> tuple[str | None, ...]:
        return ("batch", *[None] * (leaf.ndim - 1))

    return DecodeState(jax.tree.map(of_cache, state.cache), jax.tree.map(of_rows, state.rows))


def constrain(state: DecodeState) -> DecodeState:
    """The state with its sharding, inside a compiled program."""
    return jax.tree.map(nn.with_logical_constraint, state, logical_axes(state))


def without_adapters(config: OwlConfig, params: Params) -> tuple[OwlConfig, Params]:
    """The base model, if `params` has several adapters; unchanged otherwise."""
    if OWNERS not in params:
        return config, params
    base = {name: tree for name, tree in params.items() if name not in (OWNERS, "lora")}
    return dataclasses.replace(config, lora=None), base


def _with_length(rows: Rows, row: Array, length: Array) -> Rows:
    return dataclasses.replace(rows, lengths=rows.lengths.at[row].set(length))


def _apply(
    config: OwlConfig, compute: Compute, params: Params, adapters: Array | None = None
) -> Any:
    """The model's methods. adapters: int32[B], the adapter of each sequence if there are several
    (models/lora.py, side_by_side)."""
    if OWNERS in params and adapters is not None:
        layers, owners = config.llm.num_layers, params[OWNERS]
        lora = activate(params["lora"], owners, jnp.asarray(adapters), layers)
        params = {name: tree for name, tree in params.items() if name != OWNERS} | {"lora": lora}
    else:
        config, params = without_adapters(config, params)
    return partial(VisionLanguageModel(config, compute).apply, variables(params))


def _logprobs(
    steps: int, num_rows: int, num_logprobs: int | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Zeros for the log-probabilities of NewTokens."""
    each = 0 if num_logprobs is None else num_rows
    top = jnp.zeros((steps, num_rows, num_logprobs or 0))
    return jnp.zeros((steps, each)), top.astype(jnp.int32), top


def _advance(
    rows: Rows, logits: jax.Array, num_logprobs: int | None = None
) -> tuple[Rows, NewTokens]:
    """Samples the next token of each row that is not done; logits: float32[B, V].

    Returns: (rows, what was sampled in one step).
    """
    B, V = logits.shape
    adjusted = logits
    if rows.in_answer.shape[1]:
        adjusted = penalize(adjusted, rows.sampling, rows.in_prompt, rows.in_answer)
    tokens = jnp.arange(V, dtype=jnp.int32)
    if rows.allowed.shape[1]:
        bits = rows.allowed[:, tokens // 32] >> (tokens % 32).astype(jnp.uint32)
        adjusted = jnp.where(bits & 1 == 1, adjusted, -jnp.inf)
    too_early = (rows.counts < rows.min_tokens)[:, None]
    each = jnp.arange(B)[:, None]
    # -1 would index the last token.
    ends = jnp.where(too_early & (rows.end_ids >= 0), rows.end_ids, V)
    adjusted = adjusted.at[each, ends].set(-jnp.inf, mode="drop")
    token = jnp.where(rows.done, rows.newest, sample(adjusted, rows.sampling, rows.counts))

    active = ~rows.done
    counts = rows.counts + active
    has_ended = (token[:, None] == rows.end_ids).any(axis=1) | (counts >= rows.max_tokens)
    in_answer = rows.in_answer
    if in_answer.shape[1]:
        in_answer = in_answer.at[jnp.arange(B), token].add(active.astype(jnp.int32))
    after = dataclasses.replace(
        rows, newest=token, counts=counts, done=rows.done | has_ended, in_answer=in_answer
    )
    ids = jnp.where(active, token, -1)[None]
    if num_logprobs is None:
        return after, NewTokens(ids, *_logprobs(1, B, None))
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    top, top_ids = jax.lax.top_k(logprobs, num_logprobs)
    chosen = jnp.take_along_axis(logprobs, token[:, None], axis=1)[:, 0]
    return after, NewTokens(ids, chosen[None], top_ids[None].astype(jnp.int32), top[None])
