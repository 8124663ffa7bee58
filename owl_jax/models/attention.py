"""Attention by name: who may see whom, and the implementations that compute it.

Letters: B batch, L query positions, S key slots, H heads, G key heads, K head width.

`Placement` says where each query and key stands, and so who sees whom, without building an L x S
array; each implementation makes of it what it needs. All implementations give the same numbers.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

_MASKED = -1e30  # finite: a row that sees nothing gives a mean, not NaN


@struct.dataclass
class Placement:
    """Where queries and keys stand. A query sees keys of its segment that are not after it.

    query_slots:     int32[L], index in the row or cache; "after" is a matter of slots.
    query_positions: int32[B, L], for RoPE and ALiBi; each packed conversation counts from 0.
    query_segments:  int32[B, L]; conversations packed in a row have different numbers.
    key_positions:   int32[B, S]; key s is in slot s.
    key_segments:    int32[B, S]; a number that no query has hides the key.
    """

    query_slots: jax.Array
    query_positions: jax.Array
    query_segments: jax.Array
    key_positions: jax.Array
    key_segments: jax.Array

    def mask(self) -> jax.Array:
        """bool[B, 1, L, S]."""
        causal = jnp.arange(self.key_segments.shape[1]) <= self.query_slots[:, None]
        same = self.query_segments[:, :, None] == self.key_segments[:, None, :]
        return (causal & same)[:, None]


def whole_rows(positions: jax.Array, segment_ids: jax.Array) -> Placement:
    """Placement of rows that attend to themselves; int32[B, L] each."""
    slots = jnp.arange(positions.shape[1])
    return Placement(slots, positions, segment_ids, positions, segment_ids)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    placement: Placement | None = None,
    bias: jax.Array | None = None,
    implementation: str = "xla",
) -> jax.Array:
    """softmax(q k^T / sqrt(K) + bias) v, the softmax in float32.

    Args:
      q: [B, L, H, K]. k, v: [B, G, S, K] with H a multiple of G (the layout of the cache).
      placement: None lets every query see every key (vision, abstractor).
      bias: float32, broadcastable to [B, H, L, S] (ALiBi).
      implementation: "xla" everywhere; "cudnn" for NVIDIA GPUs (no bias).

    Returns: [B, L, H, K] in the dtype of q. Raises ValueError for an unknown implementation.
    """
    if implementation == "xla":
        return _xla(q, k, v, placement, bias)
    if implementation == "cudnn":
        if bias is not None:
            raise ValueError('attention "cudnn" takes no bias: use "xla" for BLOOM')
        mask = None if placement is None else placement.mask()
        return jax.nn.dot_product_attention(
            q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask=mask, implementation="cudnn"
        )
    raise ValueError(f'unknown attention implementation {implementation!r}: "xla" or "cudnn"')


def _xla(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    placement: Placement | None,
    bias: jax.Array | None,
) -> jax.Array:
    B, L, H, K = q.shape
    G, S = k.shape[1:3]
    grouped = q.reshape(B, L, G, H // G, K)
    scores = jnp.einsum("blgrk,bgsk->bgrls", grouped, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(B, H, L, S) / math.sqrt(K)
    if bias is not None:
        scores += bias
    if placement is not None:
        scores = jnp.where(placement.mask(), scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bgrls,bgsk->blgrk", weights.reshape(B, G, H // G, L, S), v).reshape(q.shape)
