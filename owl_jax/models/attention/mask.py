"""AttentionMask: which keys each query attends to, without an L x S array.

Letters: B batch, L query tokens, S key slots, H heads.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class AttentionMask:
    """A query attends to the keys of its own segment, up to and including its own slot.

    query_slots:     int32[L], consecutive indices in the sequence or cache.
    query_positions: int32[B, L], for RoPE and ALiBi; each packed conversation starts at 0.
    query_segments:  int32[B, L], an id per conversation of a packed sequence.
    key_positions:   int32[B, S]; key s is in slot s.
    key_segments:    int32[B, S]; a key whose id no query has is masked.
    """

    query_slots: jax.Array
    query_positions: jax.Array
    query_segments: jax.Array
    key_positions: jax.Array
    key_segments: jax.Array

    def dense(self, window: int = 0) -> jax.Array:
        """bool[B, 1, L, S]; a query attends to `window` positions, its own included; 0: to all."""
        causal = jnp.arange(self.key_segments.shape[1]) <= self.query_slots[:, None]
        same = self.query_segments[:, :, None] == self.key_segments[:, None, :]
        if window:
            distance = self.query_positions[:, :, None] - self.key_positions[:, None, :]
            same &= distance < window
        return (causal & same)[:, None]

    def is_self_attention(self) -> bool:
        """Whether the queries cover all slots in order: no cache, or they fill the whole cache."""
        return self.query_segments.shape == self.key_segments.shape


def self_attention_mask(positions: jax.Array, segment_ids: jax.Array) -> AttentionMask:
    """The mask of self-attention without a cache; positions, segment_ids: int32[B, L]."""
    slots = jnp.arange(positions.shape[1])
    return AttentionMask(slots, positions, segment_ids, positions, segment_ids)


def alibi_bias(slopes: jax.Array, mask: AttentionMask) -> jax.Array:
    """float32[B, H, L, S]: slope times (key position - query position) (arXiv 2108.12409)."""
    distance = mask.key_positions[:, None, :] - mask.query_positions[:, :, None]
    return slopes[:, None, None] * distance[:, None].astype(jnp.float32)
