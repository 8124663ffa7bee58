"""Attention of one new token per row to a cache, on a CPU: reads only the slots that a row uses.

Letters: B rows, S slots, H heads, G key heads, K head width.

XLA's matmuls over all slots run on all cores, this loop over rows and blocks on one. So it is used
where rows are short for their slots (`is_faster`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from owl_jax.models.attention.mask import PastTokens
from owl_jax.models.attention.packed_kernels import MASKED
from owl_jax.models.int8_cache import scaled

_BLOCK = 64  # slots; a cache has a multiple of it
_SPEEDUP = 3  # of matmuls over all slots, measured for a slot on two cores


def is_faster(past: PastTokens, num_slots: int) -> jax.Array:
    """bool[]: whether reading only the used slots takes less time than reading all."""
    used = (jnp.asarray(past.lengths) + _BLOCK - 1) // _BLOCK
    return _SPEEDUP * used.sum() < len(used) * num_slots // _BLOCK


def ragged(
    q: jax.Array,
    cached: Mapping[str, jax.Array],
    past: PastTokens,
    slopes: jax.Array | None,
    window: int,
) -> tuple[jax.Array, jax.Array]:
    """Attention of each row's query to its cached tokens.

    q: [B, H, K]; cached: {"k", "v"}, each [rows, G, S, K], and their scales if they are int8.

    Returns: (context float32[B, H, K], the logarithm of its softmax's denominator float32[B, H]).
    """
    B, H, K = q.shape
    G = cached["k"].shape[1]
    grouped = q.reshape(B, G, H // G, K)
    lengths = jnp.asarray(past.lengths)
    rows = jnp.arange(B) if past.rows is None else jnp.asarray(past.rows)
    by_group = None if slopes is None else slopes.reshape(G, H // G, 1)

    def of_row(given: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        query, length, row = given
        oldest = jnp.maximum(length - window + 1, 0) if window else jnp.zeros_like(length)

        def add(
            block: jax.Array, sums: tuple[jax.Array, jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            highest, total, context = sums
            start = row, 0, block * _BLOCK, 0
            here = {
                name: jax.lax.dynamic_slice(x, start, (1, G, _BLOCK, x.shape[3]))[0]
                for name, x in cached.items()
            }
            k, v = (here[name].astype(query.dtype) for name in "kv")
            slots = block * _BLOCK + jnp.arange(_BLOCK)
            scores = jnp.einsum("grk,gsk->grs", query, k, preferred_element_type=jnp.float32)
            scores = scaled(scores, here, "k") / math.sqrt(K)
            if by_group is not None:
                scores += by_group * (slots - length)
            scores = jnp.where((slots >= oldest) & (slots < length), scores, MASKED)
            new_highest = jnp.maximum(highest, scores.max(axis=-1))
            weights = jnp.exp(scores - new_highest[..., None])
            shrink = jnp.exp(highest - new_highest)
            shares = scaled(weights, here, "v").astype(v.dtype)
            values = jnp.einsum("grs,gsk->grk", shares, v)
            return (
                new_highest,
                total * shrink + weights.sum(axis=-1),
                context * shrink[..., None] + values,
            )

        none = jnp.full((G, H // G), MASKED), jnp.zeros((G, H // G)), jnp.zeros((G, H // G, K))
        blocks = (length + _BLOCK - 1) // _BLOCK
        highest, total, context = jax.lax.fori_loop(oldest // _BLOCK, blocks, add, none)
        # A row without tokens has a total of 0 and weighs nothing.
        return context / jnp.maximum(total, 1.0e-30)[..., None], jnp.where(
            total > 0, highest + jnp.log(jnp.maximum(total, 1.0e-30)), MASKED
        )

    context, logsum = jax.lax.map(of_row, (grouped, lengths, rows))
    return context.reshape(B, H, K), logsum.reshape(B, H)
