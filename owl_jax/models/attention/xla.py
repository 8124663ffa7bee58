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
from owl_jax.models.cache import Past
from owl_jax.models.platform import platform
from owl_jax.models.remat import named

# XLA on TPU computes the matmul of a single query elementwise. With eight copies of the query, the
# matrix unit's minimum, it uses that unit and takes two fifths of the time, the compiler estimates.
_QUERY_COPIES = 8


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
    length, cached = q.shape[1], past.read()
    if mask.past.rows is not None:
        cached = {name: x[mask.past.rows] for name, x in cached.items()}
    copies = _QUERY_COPIES if length == 1 and platform() == "tpu" else 1
    old = _products(jnp.repeat(q, copies, axis=1), cached["k"])[:, :, :length]
    slots = jnp.arange(old.shape[-1])
    if slopes is not None:
        old += alibi_bias(slopes, mask.query_positions, slots)
    old = jnp.where(mask.dense_past(len(slots), window), old, MASKED)
    new = _scores(q, k, mask, slopes, window)
    total = jnp.logaddexp(logsumexp(old, -1, keepdims=True), logsumexp(new, -1, keepdims=True))
    old, new = jnp.exp(old - total), jnp.exp(new - total)
    of_past = _weighted_values(jnp.repeat(old, copies, axis=2), cached["v"])[:, :length]
    return named("context", of_past + _weighted_values(new, v))


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
