"""AttentionMask: which keys each query attends to, without an L x S array.

Letters: B sequences, L tokens, S slots of the cache, H heads.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = Any  # NumPy on the host, jax.Array in a program


@struct.dataclass
class PastTokens:
    """The cached tokens that precede the queries.

    Sequence b has lengths[b] of them, in slots 0, 1, ... of its cache row. Each of its queries
    attends to all of them (within its window).

    lengths: int32[B].
    rows: int32[B], the cache row of each sequence; None: sequence b uses row b.
    """

    lengths: Array
    rows: Array | None = None


@struct.dataclass
class AttentionMask:
    """A query attends to the keys of its own segment, up to and including its own token.

    query_positions: int32[B, L], for RoPE and ALiBi; each packed conversation starts at 0.
    query_segments:  int32[B, L], an id per conversation of a packed sequence.
    key_positions:   int32[B, L].
    key_segments:    int32[B, L]; keys whose id matches no query are masked.
    past:            tokens of a cache that all queries attend to as well, or None.
    """

    query_positions: jax.Array
    query_segments: jax.Array
    key_positions: jax.Array
    key_segments: jax.Array
    past: PastTokens | None = None

    def dense(self, window: int = 0) -> jax.Array:
        """bool[B, 1, L, L]: the tokens that each query attends to.

        window: the number of positions that a query attends to, including its own; 0: no limit.
        """
        slots = jnp.arange(self.key_segments.shape[1])
        causal = slots <= slots[:, None]
        same = self.query_segments[:, :, None] == self.key_segments[:, None, :]
        if window:
            distance = self.query_positions[:, :, None] - self.key_positions[:, None, :]
            same &= distance < window
        return (causal & same)[:, None]

    def dense_past(self, num_slots: int, window: int = 0) -> jax.Array:
        """bool[B, 1, L, S]: the cached tokens that each query attends to."""
        assert self.past is not None
        slots = jnp.arange(num_slots)
        seen = (slots < self.past.lengths[:, None])[:, None]
        if window:
            seen &= self.query_positions[:, :, None] - slots < window
        return jnp.broadcast_to(seen, (*self.query_positions.shape, num_slots))[:, None]


def self_attention_mask(
    positions: jax.Array, segment_ids: jax.Array, past: PastTokens | None = None
) -> AttentionMask:
    """The mask of tokens that attend to each other; positions, segment_ids: int32[B, L]."""
    return AttentionMask(positions, segment_ids, positions, segment_ids, past)


def alibi_bias(
    slopes: jax.Array, query_positions: jax.Array, key_positions: jax.Array
) -> jax.Array:
    """float32[B, H, L, S]: slope times (key position - query position) (arXiv 2108.12409).

    query_positions: int32[B, L]; key_positions: int32[B, S], or [S] for all sequences.
    """
    distance = key_positions[..., None, :] - query_positions[:, :, None]
    return slopes[:, None, None] * distance[:, None].astype(jnp.float32)
