"""Attention by blocks, for a CPU: flash attention (arXiv 2205.14135) in XLA's operations.

Letters: B batch, L positions, H heads, G key heads, R heads that share one, K and V widths of keys
and values, T blocks of a row; of one block: Q queries, S keys.

Each block of queries meets the keys from the first block that it sees to its own: in a row packed
of conversations, those of others are left out. The backward pass computes the scores once more:
writing them down and reading them again takes a CPU longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from owl_jax.models.attention.packed_kernels import MASKED, NOWHERE, fill
from owl_jax.models.remat import named

BLOCK = 256  # positions; XLA's CPU library needs such products for two threads


def blockwise(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
) -> jax.Array:
    """A kernel of whole rows (models/attention/packed_kernels.py).

    q: [B, H, L, K], scaled. k: [B, G, L, K]. v: [B, G, L, V]. Segments: int32[B, L], not negative.

    Returns: [B, H, L, V]. It and the scores' log-sum-exp, which the backward pass takes, are named
    `context` (models/remat.py). A query that sees nothing passes no gradient on.
    """
    B, H, L, K = q.shape
    G = k.shape[1]
    filled = BLOCK * math.ceil(L / BLOCK)
    q, k, v = (fill(x, 2, filled) for x in (q, k, v))
    segments = [fill(x, 1, filled, NOWHERE) for x in (query_segments, key_segments)]
    context = _attend(q.reshape(B, G, H // G, filled, K), k, v, *segments)
    return context.reshape(B, H, filled, v.shape[3])[:, :, :L]


@dataclass(frozen=True)
class _Block:
    """A block of queries of one row, and the blocks of keys that it meets.

    row, index: int32[], which block. number: of keys' blocks; the last is the queries' own unless
      so many do not come before it.
    """

    row: jax.Array
    index: jax.Array
    number: int

    def queries(self, x: jax.Array, axis: int) -> jax.Array:
        """The queries' part of [B, ...], whose positions are on `axis`."""
        return self._part(x, axis, self.index * BLOCK, BLOCK)

    def keys(self, x: jax.Array, axis: int) -> jax.Array:
        """The keys' part of [B, ...], whose positions are on `axis`."""
        return self._part(x, axis, self._start(), self.number * BLOCK)

    def add_to_keys(self, sums: jax.Array, part: jax.Array) -> jax.Array:
        """[B, G, L, K] with [G, S, K] added to the keys' part."""
        part = self.keys(sums, 2) + part
        return jax.lax.dynamic_update_slice(sums, part[None], (self.row, 0, self._start(), 0))

    def seen(self, query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
        """bool[Q, S]."""
        queries, keys = self.queries(query_segments, 1), self.keys(key_segments, 1)
        slots = self.index * BLOCK + jnp.arange(BLOCK)
        causal = self._start() + jnp.arange(len(keys)) <= slots[:, None]
        return causal & (queries[:, None] == keys)

    def _start(self) -> jax.Array:
        return jnp.maximum(self.index + 1 - self.number, 0) * BLOCK

    def _part(self, x: jax.Array, axis: int, start: jax.Array, size: int) -> jax.Array:
        row = jax.lax.dynamic_index_in_dim(x, self.row, keepdims=False)
        return jax.lax.dynamic_slice_in_dim(row, start, size, axis - 1)


@jax.custom_vjp
def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, query_segments: jax.Array, key_segments: jax.Array
) -> jax.Array:
    """q: [B, G, R, L, K], L a multiple of BLOCK; the result is of the same form."""
    return _forward(q, k, v, query_segments, key_segments)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, *segments: jax.Array) -> tuple[Any, Any]:
    B, G, R, _, K = q.shape
    # Of a scan over layers, JAX computes once before it what depends on no layer, and keeps it:
    # here every block's mask, [L, L] in all. Segments that come with the queries depend on one.
    q, *segments = jax.lax.optimization_barrier((q, *segments))

    def attend(_: None, block: _Block) -> tuple[None, tuple[jax.Array, jax.Array]]:
        queries = block.queries(q, 3).reshape(G, -1, K)
        scores = _product("gqk,gsk->gqs", queries, block.keys(k, 2)).reshape(G, R, BLOCK, -1)
        scores = jnp.where(block.seen(*segments), scores, MASKED)
        highest = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - highest)
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights.astype(v.dtype).reshape(G, R * BLOCK, -1)
        weighed = _product("gqs,gsk->gqk", weights, block.keys(v, 2))
        weighed = weighed.reshape(G, R, BLOCK, -1)
        return None, ((weighed / total).astype(q.dtype), (highest + jnp.log(total))[..., 0])

    _, blocks = _scan(attend, None, *segments)
    context, normalizer = (named("context", _join(x, B)) for x in blocks)
    return context, (q, k, v, *segments, context, normalizer)


def _backward(kept: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[Any, ...]:
    """The scores stand on their side, [S, Q]: XLA's CPU library contracts first axes slowly."""
    q, k, v, *segments, context, normalizer = kept
    B, G, R, _, K = q.shape
    wide = gradient.astype(jnp.float32)
    common = (wide * context).sum(axis=-1)  # [B, G, R, L]

    def attend(sums: tuple[jax.Array, jax.Array], block: _Block) -> tuple[Any, jax.Array]:
        def of_each_query(x: jax.Array) -> jax.Array:
            return block.queries(x, 3)[:, None]  # [G, 1, R, Q]

        def narrow(x: jax.Array) -> jax.Array:
            return x.astype(q.dtype).reshape(G, -1, R * BLOCK)

        queries, outer = (block.queries(x, 3).reshape(G, R * BLOCK, -1) for x in (q, gradient))
        keys, values = block.keys(k, 2), block.keys(v, 2)
        scores = _product("gsk,gqk->gsq", keys, queries).reshape(G, -1, R, BLOCK)
        seen = block.seen(*segments).T[:, None]
        weights = jnp.exp(jnp.where(seen, scores, -jnp.inf) - of_each_query(normalizer))
        of_weights = _product("gsk,gqk->gsq", values, outer).reshape(weights.shape)

        of_scores = narrow(weights * (of_weights - of_each_query(common)))
        of_values = _product("gsq,gqk->gsk", narrow(weights), outer)
        of_keys = _product("gsq,gqk->gsk", of_scores, queries)
        of_queries = _product("gks,gsq->gkq", keys.swapaxes(1, 2), of_scores).swapaxes(1, 2)
        sums = block.add_to_keys(sums[0], of_keys), block.add_to_keys(sums[1], of_values)
        return sums, of_queries.reshape(G, R, BLOCK, K).astype(q.dtype)

    start = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    (of_keys, of_values), blocks = _scan(attend, start, *segments)
    return _join(blocks, B), of_keys.astype(k.dtype), of_values.astype(v.dtype), None, None


_attend.defvjp(_forward, _backward)


def _scan(
    function: Callable[[Any, _Block], tuple[Any, Any]],
    carry: Any,
    query_segments: jax.Array,
    key_segments: jax.Array,
) -> tuple[Any, Any]:
    """Scans a function over all blocks of queries of all rows: (carry, results [B * T, ...])."""
    B, T = len(query_segments), query_segments.shape[1] // BLOCK
    numbers = _numbers(T)

    def step(carry: Any, xs: tuple[jax.Array, ...]) -> tuple[Any, Any]:
        row, index, choice = xs

        def branch(number: int) -> Callable[[Any], tuple[Any, Any]]:
            return lambda carry: function(carry, _Block(row, index, number))

        result: tuple[Any, Any] = jax.lax.switch(choice, [branch(n) for n in numbers], carry)
        return result

    rows, indices = jnp.indices((B, T)).reshape(2, -1)
    needed = _needed(query_segments, key_segments).reshape(-1)
    choices = jnp.searchsorted(numbers, needed, method="compare_all")
    return jax.lax.scan(step, carry, (rows, indices, choices))


def _needed(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """int32[B, T]: how many blocks of keys, to its own, each block of queries meets.

    Blocks meet if the ranges of their segments do, which is too often where segments are not in
    order, and never too seldom. Exactly would take [L, L] comparisons.
    """
    T = query_segments.shape[1] // BLOCK

    def ranges(segments: jax.Array) -> tuple[jax.Array, jax.Array]:
        last = jnp.iinfo(segments.dtype).max  # what padding is: it mostly ends a row
        blocks = jnp.where(segments > 0, segments, last).reshape(-1, T, BLOCK)
        return blocks.min(axis=-1), blocks.max(axis=-1)

    (query_least, query_most), (key_least, key_most) = map(ranges, (query_segments, key_segments))
    meets = (key_least[:, None] <= query_most[..., None]) & (
        query_least[..., None] <= key_most[:, None]
    )
    return jnp.arange(T) + 1 - jnp.argmax(meets & np.tri(T, dtype=bool), axis=-1)


def _numbers(most: int) -> np.ndarray:
    """How many blocks of keys a program has a branch for: 1, 2, 3, 4, 6, 8, 12, ... and `most`."""
    steps = [2**i * n // 2 for i in range(most.bit_length()) for n in (2, 3)]
    return np.array(sorted({n for n in steps if n < most} | {most}))


def _product(formula: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(formula, x, y, preferred_element_type=jnp.float32)


def _join(blocks: jax.Array, rows: int) -> jax.Array:
    """[B * T, G, R, Q, ...] -> [B, G, R, L, ...]."""
    apart = blocks.reshape(rows, -1, *blocks.shape[1:])
    joined = jnp.moveaxis(apart, 1, 3)
    return joined.reshape(*joined.shape[:3], -1, *joined.shape[5:])
