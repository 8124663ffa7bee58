"""Splices media vectors into the token embeddings.

Letters: B sequences, L tokens, N slots, D language width, W vectors of a sequence's slots.

A sequence has a fixed length and a fixed number of media slots, so sequences with text, images and
videos run the same program. `media_index` holds the index of each media token's vector.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from owl_jax.text.media_index import TEXT


def splice(text: jax.Array, media: jax.Array, media_index: jax.Array) -> jax.Array:
    """Replaces the embeddings of media tokens by media vectors.

    Args:
      text: [B, L, D] token embeddings (any value at media tokens).
      media: [B, W, D], the vectors of all slots, one slot after the other.
      media_index: int32[B, L], 0 .. W - 1, or -1 for a text token (text/media_index.py).

    Returns: [B, L, D] in the dtype of `text`.
    """
    index = jnp.maximum(media_index, 0)[:, :, None]
    vectors = jnp.take_along_axis(media.astype(text.dtype), index, axis=1)
    return jnp.where(media_index[:, :, None] == TEXT, text, vectors)
