"""Attention in XLA's own operations: whatever no kernel takes, and decoding with a cache.

Letters: B batch, L query tokens, S key slots, H heads, G key heads, K head width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from owl_jax.models.attention.mask import AttentionMask, alibi_bias, self_attention_mask
from owl_jax.models.attention.packed_kernels import MASKED
from owl_jax.models.platform import platform
from owl_jax.models.remat import named

# The TPU's compiler multiplies a single query element by element. In as many copies as the matrix
# unit takes at a time anyway, it goes there, by its estimate in two fifths of the time.
_COPIES = 8


def xla(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask | None,
    slopes: jax.Array | None,
) -> jax.Array:
    if platform() == "cpu":
        return _divided_last(q, k, v, mask, slopes)
    return _weighed(jax.nn.softmax(_scores(q, k, mask, slopes), axis=-1), v)


def _divided_last(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask | None,
    slopes: jax.Array | None,
) -> jax.Array:
    """The form for a CPU: the sum of a query's weights divides what they weigh, which is less.

    Heads stand before positions in both products: for any other order a CPU's compiler writes down
    transposed scores, or keys.
    """
    B, L, H, K = q.shape
    G, S = k.shape[1:3]
    rows = q.swapaxes(1, 2).reshape(B, G, -1, K)
    scores = jnp.einsum("bgmk,bgsk->bgms", rows, k, preferred_element_type=jnp.float32)
    scores = _masked(scores.reshape(B, H, L, S) / math.sqrt(K), mask, slopes)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(v.dtype).reshape(B, G, -1, S)
    # By this name, so that the gradient of the quotient does not compute it again.
    weighed = named("context", jnp.einsum("bgms,bgsk->bgmk", weights, v))
    return (weighed.reshape(B, H, L, K) / total).astype(v.dtype).swapaxes(1, 2)


def with_cache(
    past: Mapping[str, jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    slopes: jax.Array | None,
) -> jax.Array:
    """One softmax over the cache's keys and the queries' own; joining them would copy the cache."""
    start, length = mask.query_slots[0], q.shape[1]
    before = dataclasses.replace(mask, query_slots=jnp.full(length, start - 1))
    among = self_attention_mask(mask.query_positions, mask.query_segments)
    copies = _COPIES if length == 1 and platform() == "tpu" else 1
    old = _scores(jnp.repeat(q, copies, axis=1), past["k"], before, slopes)[:, :, :length]
    own = _scores(q, k, among, slopes)
    total = jnp.logaddexp(logsumexp(old, -1, keepdims=True), logsumexp(own, -1, keepdims=True))
    old, own = jnp.exp(old - total), jnp.exp(own - total)
    result = _weighed(jnp.repeat(old, copies, axis=2), past["v"])[:, :length] + _weighed(own, v)
    return named("context", result)


def _scores(
    q: jax.Array, k: jax.Array, mask: AttentionMask | None, slopes: jax.Array | None
) -> jax.Array:
    """float32[B, H, L, S], masked."""
    B, L, H, K = q.shape
    G, S = k.shape[1:3]
    grouped = q.reshape(B, L, G, H // G, K)
    scores = jnp.einsum("blgrk,bgsk->bgrls", grouped, k, preferred_element_type=jnp.float32)
    return _masked(scores.reshape(B, H, L, S) / math.sqrt(K), mask, slopes)


def _masked(scores: jax.Array, mask: AttentionMask | None, slopes: jax.Array | None) -> jax.Array:
    """Scores [B, H, L, S] with ALiBi's bias, and out of reach where a key is not seen."""
    if mask is None:
        return scores
    if slopes is not None:
        scores += alibi_bias(slopes, mask)
    return jnp.where(mask.dense(), scores, MASKED)


def _weighed(weights: jax.Array, v: jax.Array) -> jax.Array:
    """Values [B, G, S, K] by weights [B, H, L, S]: [B, L, H, K]."""
    B, H, L, S = weights.shape
    G, K = v.shape[1], v.shape[3]
    grouped = weights.astype(v.dtype).reshape(B, G, H // G, L, S)
    return jnp.einsum("bgrls,bgsk->blgrk", grouped, v).reshape(B, L, H, K)
