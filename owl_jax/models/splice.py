"""Splices media vectors into the token embeddings: an image becomes Q + 1 tokens of a sequence.

Letters: B sequences, L tokens, N slots, Q queries, D language width.

A sequence has a fixed length and a fixed number of media slots, so sequences with text, images and
videos run the same program. `media_index` holds the vector and slot of each media token.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

TEXT = -1  # media_index of a text token


def splice(text: jax.Array, media: jax.Array, media_index: jax.Array) -> jax.Array:
    """Replaces the embeddings of media tokens by media vectors.

    Args:
      text: [B, L, D] token embeddings (any value at media tokens).
      media: [B, N, Q + 1, D].
      media_index: int32[B, L], slot * (Q + 1) + vector, or -1 for a text token.

    Returns: [B, L, D] in the dtype of `text`.
    """
    B, _, _, D = media.shape
    table = media.reshape(B, -1, D).astype(text.dtype)
    index = jnp.maximum(media_index, 0)[:, :, None]
    return jnp.where(media_index[:, :, None] == TEXT, text, jnp.take_along_axis(table, index, 1))
