"""Media among words: where an image becomes Q + 1 positions of the row that the LLM reads.

Letters: B rows, L positions, N slots, Q queries, D language width.

A row has L positions and a fixed number of media slots, so that rows of text, of pictures and of
videos are the same program. `media_index` says which vector of which slot a position takes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

TEXT = -1  # media_index of a position that holds a word


def splice(text: jax.Array, media: jax.Array, media_index: jax.Array) -> jax.Array:
    """Puts media vectors in their positions.

    Args:
      text: [B, L, D] word embeddings (anything at media positions).
      media: [B, N, Q + 1, D].
      media_index: int32[B, L], slot * (Q + 1) + vector, or -1 for a word.

    Returns: [B, L, D] in the dtype of `text`.
    """
    B, _, _, D = media.shape
    table = media.reshape(B, -1, D).astype(text.dtype)
    index = jnp.maximum(media_index, 0)[:, :, None]
    return jnp.where(media_index[:, :, None] == TEXT, text, jnp.take_along_axis(table, index, 1))
