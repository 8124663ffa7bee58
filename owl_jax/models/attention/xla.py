"""Attention in plain XLA operations: the fallback for all kernels, and decoding with a cache.

Letters: B batch, L query tokens, S key slots, H heads, G key heads, K head width.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from owl_jax.models.attention.mask import AttentionMask, alibi_bias
from owl_jax.models.attention.packed_kernels import MASKED
from owl_jax.models.attention.ragged_cpu import is_faster, ragged
from owl_jax.models.cache import LayerCache, Past
from owl_jax.models.int8_cache import scaled
from owl_jax.models.platform import platform
from owl_jax.models.remat import named

# XLA on TPU computes the matmul of a single query elementwise. With eight copies of the query, the
# matrix unit's minimum, it uses that unit and takes two fifths of the time, the compiler estimates.
_QUERY_COPIES = 8

_MIN_RAGGED_SLOTS = 512  # with fewer, reading all of them is always faster


def xla(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask | None,
    slopes: jax.Array | None,
    window: int = 0,
) -> jax.Array:
    """Attention without a cache; arguments and result as in `attend` (dispatch.py)."""
    if platform() == "cpu":
        return _divide_last(q, k, v, mask, slopes, window)
    return _weighted_values(jax.nn.softmax(_scores(q, k, mask, slopes, window), axis=-1), v)


def _divide_last(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask | None,
    slopes: jax.Array | None,
    window: int,
) -> jax.Array:
    """For CPU: divides the weighted values, not the larger scores, by the softmax's denominator.

    Heads precede tokens in both matmuls: otherwise XLA on CPU materialises transposed scores or
    keys.
    """
    B, L, H, K = q.shape
    G, S = k.shape[1:3]
    queries = q.swapaxes(1, 2).reshape(B, G, -1, K)
    scores = jnp.einsum("bgmk,bgsk->bgms", queries, k, preferred_element_type=jnp.float32)
    scores = _mask_scores(scores.reshape(B, H, L, S) / math.sqrt(K), mask, slopes, window)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(v.dtype).reshape(B, G, -1, S)
    # Named so that the gradient of the division does not recompute it.
    context = named("context", jnp.einsum("bgms,bgsk->bgmk", weights, v))
    return (context.reshape(B, H, L, K) / total).astype(v.dtype).swapaxes(1, 2)


def attend_with_cache(
    past: Past,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    slopes: jax.Array | None,
    window: int = 0,
) -> jax.Array:
    """One softmax over cached and new keys; concatenating them would copy the cache."""
    assert mask.past is not None
    tokens, cached = mask.past, past.read()

    def all_slots() -> tuple[jax.Array, jax.Array]:
        return _of_past(cached, q, mask, slopes, window)

    def used_slots() -> tuple[jax.Array, jax.Array]:
        context, logsum = ragged(q[:, 0], cached, tokens, slopes, window)
        return context[:, None].astype(q.dtype), logsum[:, :, None]

    num_slots = cached["k"].shape[2]
    if q.shape[1] == 1 and platform() == "cpu" and num_slots >= _MIN_RAGGED_SLOTS:
        shorter = is_faster(tokens, num_slots)
        of_past, old = jax.lax.cond(shorter, used_slots, all_slots)
    else:
        of_past, old = all_slots()
    new = _scores(q, k, mask, slopes, window)
    total = jnp.logaddexp(old, logsumexp(new, -1))
    share = jnp.exp(old - total).swapaxes(1, 2)[..., None].astype(of_past.dtype)
    of_new = _weighted_values(jnp.exp(new - total[..., None]), v)
    return named("context", share * of_past + of_new)


def _of_past(
    cached: LayerCache,
    q: jax.Array,
    mask: AttentionMask,
    slopes: jax.Array | None,
    window: int,
) -> tuple[jax.Array, jax.Array]:
    """Attention to the cached tokens alone: (context [B, L, H, K], the logarithm of the softmax's
    denominator float32[B, H, L])."""
    assert mask.past is not None
    if mask.past.rows is not None:
        cached = {name: x[mask.past.rows] for name, x in cached.items()}
    length = q.shape[1]
    copies = _QUERY_COPIES if length == 1 and platform() == "tpu" else 1
    keys, values = (cached[name].astype(q.dtype) for name in "kv")  # widens int8
    scores = _products(jnp.repeat(q, copies, axis=1), keys)[:, :, :length]
    scores = scaled(scores, cached, "k")
    slots = jnp.arange(scores.shape[-1])
    if slopes is not None:
        scores += alibi_bias(slopes, mask.query_positions, slots)
    scores = jnp.where(mask.dense_past(len(slots), window), scores, MASKED)
    total = logsumexp(scores, -1)
    weights = scaled(jnp.exp(scores - total[..., None]), cached, "v")
    context = _weighted_values(jnp.repeat(weights, copies, axis=2), values)[:, :length]
    return context, total


def _scores(
    q: jax.Array,
    k: jax.Array,
    mask: AttentionMask | None,
    slopes: jax.Array | None,
    window: int = 0,
) -> jax.Array:
    """float32[B, H, L, L], masked."""
    return _mask_scores(_products(q, k), mask, slopes, window)


def _products(q: jax.Array, k: jax.Array) -> jax.Array:
    """float32[B, H, L, S]: q k^T / sqrt(K)."""
    B, L, H, K = q.shape
    G, S = k.shape[1:3]
    grouped = q.reshape(B, L, G, H // G, K)
    scores = jnp.einsum("blgrk,bgsk->bgrls", grouped, k, preferred_element_type=jnp.float32)
    return scores.reshape(B, H, L, S) / math.sqrt(K)


def _mask_scores(
    scores: jax.Array, mask: AttentionMask | None, slopes: jax.Array | None, window: int
) -> jax.Array:
    """Scores [B, H, L, L] with ALiBi's bias and the mask applied."""
    if mask is None:
        return scores
    if slopes is not None:
        scores += alibi_bias(slopes, mask.query_positions, mask.key_positions)
    return jnp.where(mask.dense(window), scores, MASKED)


def _weighted_values(weights: jax.Array, v: jax.Array) -> jax.Array:
    """weights [B, H, L, S], values [B, G, S, K] -> [B, L, H, K]."""
    B, H, L, S = weights.shape
    G, K = v.shape[1], v.shape[3]
    grouped = weights.astype(v.dtype).reshape(B, G, H // G, L, S)
    return jnp.einsum("bgrls,bgsk->blgrk", grouped, v).reshape(B, L, H, K)
