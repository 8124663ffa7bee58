"""Which tokens of a batch are visual, for language models with separate weights for them.

Letters: B sequences, L tokens, W vectors of a sequence's media slots.

W is static because the number of slots is. A language model can therefore apply its visual weights
to W tokens of each sequence instead of all L.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from owl_jax.text.media_index import TEXT


@struct.dataclass
class Modality:
    """The visual tokens: those of pictures and videos. Text and padding are not visual.

    visual: bool[B, L].
    tokens: int32[B, W], the index of the token that takes each vector. A vector that no token takes
      has an index of L or more, unique to it.
    """

    visual: jax.Array
    tokens: jax.Array

    @staticmethod
    def of(media_index: jax.Array, num_vectors: int) -> Modality:
        """Inverts media_index, int32[B, L] (models/splice.py); W = num_vectors."""
        L = media_index.shape[1]
        vectors = jnp.arange(num_vectors, dtype=jnp.int32)[:, None]
        # A reduction, not a scatter: a TPU applies a scatter's updates one at a time.
        takes = media_index[:, None, :] == vectors
        tokens = jnp.where(takes, jnp.arange(L, dtype=jnp.int32), L + vectors).min(axis=2)
        return Modality(media_index != TEXT, tokens)

    def select(self, visual: jax.Array, text: jax.Array) -> jax.Array:
        """`visual` at visual tokens, `text` at the others; both are [B, L, ...]."""
        where = self.visual.reshape(*self.visual.shape, *[1] * (text.ndim - 2))
        return jnp.where(where, visual, text)

    def take(self, x: jax.Array) -> jax.Array:
        """The visual tokens of x [B, L, ...], in the order of the slots: [B, W, ...]."""
        return _take(x, self.tokens)

    def put(self, x: jax.Array, visual: jax.Array) -> jax.Array:
        """x [B, L, ...] with its visual tokens replaced; the inverse of `take`."""
        return _put(x, visual.astype(x.dtype), self.tokens)


@jax.vmap
def _take(x: jax.Array, tokens: jax.Array) -> jax.Array:
    return x.at[tokens].get(mode="fill", fill_value=0, unique_indices=True)


@jax.vmap
def _put(x: jax.Array, values: jax.Array, tokens: jax.Array) -> jax.Array:
    return x.at[tokens].set(values, mode="drop", unique_indices=True)
