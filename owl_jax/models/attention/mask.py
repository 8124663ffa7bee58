"""Who may attend to whom.

Letters: B batch, L query tokens, S key slots, H heads.

`AttentionMask` says which keys each query sees without building an L x S array; each implementation
makes of it what it needs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class AttentionMask:
    """The positions of queries and keys. A query sees keys of its segment that are not after it.

    query_slots:     int32[L], successive indices in the sequence or cache; "after" goes by them.
    query_positions: int32[B, L], for RoPE and ALiBi; each packed conversation counts from 0.
    query_segments:  int32[B, L]; conversations packed in a sequence have different numbers.
    key_positions:   int32[B, S]; key s is in slot s.
    key_segments:    int32[B, S]; a number that no query has hides the key.
    """

    query_slots: jax.Array
    query_positions: jax.Array
    query_segments: jax.Array
    key_positions: jax.Array
    key_segments: jax.Array

    def dense(self) -> jax.Array:
        """bool[B, 1, L, S]."""
        causal = jnp.arange(self.key_segments.shape[1]) <= self.query_slots[:, None]
        same = self.query_segments[:, :, None] == self.key_segments[:, None, :]
        return (causal & same)[:, None]

    def is_self_attention(self) -> bool:
        """Whether the queries are all slots there are, in order: no cache, or the whole of it."""
        return self.query_segments.shape == self.key_segments.shape


def self_attention_mask(positions: jax.Array, segment_ids: jax.Array) -> AttentionMask:
    """The mask of sequences that attend to themselves; int32[B, L] each."""
    slots = jnp.arange(positions.shape[1])
    return AttentionMask(slots, positions, segment_ids, positions, segment_ids)


def alibi_bias(slopes: jax.Array, mask: AttentionMask) -> jax.Array:
    """float32[B, H, L, S]: slope times (key position - query position) (arXiv 2108.12409)."""
    distance = mask.key_positions[:, None, :] - mask.query_positions[:, :, None]
    return slopes[:, None, None] * distance[:, None].astype(jnp.float32)
