"""Blockwise attention for CPU: flash attention (arXiv 2205.14135) in XLA operations.

Letters: B batch, L tokens, H heads, G key heads, R heads per key head, K and V widths of keys and
values, T blocks of a sequence; in a block: Q queries, S keys.

Each block of queries uses the key blocks from the first that it attends to up to its own. In a
packed sequence this skips other conversations. The backward pass recomputes the scores, which is
faster on a CPU than storing them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from owl_jax.models.attention.packed_kernels import MASKED, PADDING_SEGMENT, pad_to
from owl_jax.models.remat import named

BLOCK = 256  # tokens; smaller matmuls do not occupy two threads of XLA's CPU library


def blockwise(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
) -> jax.Array:
    """A kernel for packed sequences (models/attention/packed_kernels.py).

    q: [B, H, L, K], scaled. k: [B, G, L, K]. v: [B, G, L, V]. Segments: int32[B, L], not negative.

    Returns: [B, H, L, V]. The result and the scores' log-sum-exp, which the backward pass uses, are
    named `context` (models/remat.py). A query without keys gets no gradient.
    """
    B, H, L, K = q.shape
    G = k.shape[1]
    padded = BLOCK * math.ceil(L / BLOCK)
    q, k, v = (pad_to(x, 2, padded) for x in (q, k, v))
    segments = [pad_to(x, 1, padded, PADDING_SEGMENT) for x in (query_segments, key_segments)]
    context = _attend(q.reshape(B, G, H // G, padded, K), k, v, *segments)
    return context.reshape(B, H, padded, v.shape[3])[:, :, :L]


@dataclass(frozen=True)
class _Block:
    """A block of queries of one sequence, and the range of key blocks that it uses.

    sequence: int32[], the index in the batch. index: int32[], of the query block.
    num_key_blocks: the length of the range. The range ends with the query block; if too few blocks
      precede that block, the range starts at block 0 instead.
    """

    sequence: jax.Array
    index: jax.Array
    num_key_blocks: int

    def queries(self, x: jax.Array, axis: int) -> jax.Array:
        """This block's queries, sliced from x [B, ...] along the token axis `axis`."""
        return self._slice(x, axis, self.index * BLOCK, BLOCK)

    def keys(self, x: jax.Array, axis: int) -> jax.Array:
        """This block's keys, sliced from x [B, ...] along the token axis `axis`."""
        return self._slice(x, axis, self._start(), self.num_key_blocks * BLOCK)

    def add_to_keys(self, sums: jax.Array, update: jax.Array) -> jax.Array:
        """`sums` [B, G, L, K] with `update` [G, S, K] added at this block's keys."""
        update = self.keys(sums, 2) + update
        start = self.sequence, 0, self._start(), 0
        return jax.lax.dynamic_update_slice(sums, update[None], start)

    def mask(self, query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
        """bool[Q, S], True where the query attends to the key."""
        queries, keys = self.queries(query_segments, 1), self.keys(key_segments, 1)
        slots = self.index * BLOCK + jnp.arange(BLOCK)
        causal = self._start() + jnp.arange(len(keys)) <= slots[:, None]
        return causal & (queries[:, None] == keys)

    def _start(self) -> jax.Array:
        return jnp.maximum(self.index + 1 - self.num_key_blocks, 0) * BLOCK

    def _slice(self, x: jax.Array, axis: int, start: jax.Array, size: int) -> jax.Array:
        sequence = jax.lax.dynamic_index_in_dim(x, self.sequence, keepdims=False)
        return jax.lax.dynamic_slice_in_dim(sequence, start, size, axis - 1)


@jax.custom_vjp
def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, query_segments: jax.Array, key_segments: jax.Array
) -> jax.Array:
    """q: [B, G, R, L, K], L a multiple of BLOCK. Returns: [B, G, R, L, V]."""
    return _forward(q, k, v, query_segments, key_segments)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, *segments: jax.Array) -> tuple[Any, Any]:
    B, G, R, _, K = q.shape
    # JAX hoists loop invariants out of the scan over layers and would store the masks of all
    # blocks, [L, L] in total. The barrier makes the segments depend on the layer.
    q, *segments = jax.lax.optimization_barrier((q, *segments))

    def attend(_: None, block: _Block) -> tuple[None, tuple[jax.Array, jax.Array]]:
        queries = block.queries(q, 3).reshape(G, -1, K)
        scores = _einsum("gqk,gsk->gqs", queries, block.keys(k, 2)).reshape(G, R, BLOCK, -1)
        scores = jnp.where(block.mask(*segments), scores, MASKED)
        highest = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - highest)
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights.astype(v.dtype).reshape(G, R * BLOCK, -1)
        context = _einsum("gqs,gsk->gqk", weights, block.keys(v, 2))
        context = context.reshape(G, R, BLOCK, -1)
        return None, ((context / total).astype(q.dtype), (highest + jnp.log(total))[..., 0])

    _, blocks = _scan(attend, None, *segments)
    context, normalizer = (named("context", _join(x, B)) for x in blocks)
    return context, (q, k, v, *segments, context, normalizer)


def _backward(residuals: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[Any, ...]:
    """Scores are transposed, [S, Q]: XLA's CPU library is slow at contracting leading axes."""
    q, k, v, *segments, context, normalizer = residuals
    B, G, R, _, K = q.shape
    wide = gradient.astype(jnp.float32)
    common = (wide * context).sum(axis=-1)  # [B, G, R, L]

    def attend(sums: tuple[jax.Array, jax.Array], block: _Block) -> tuple[Any, jax.Array]:
        def per_query(x: jax.Array) -> jax.Array:
            return block.queries(x, 3)[:, None]  # [G, 1, R, Q]

        def narrow(x: jax.Array) -> jax.Array:
            return x.astype(q.dtype).reshape(G, -1, R * BLOCK)

        queries, outer = (block.queries(x, 3).reshape(G, R * BLOCK, -1) for x in (q, gradient))
        keys, values = block.keys(k, 2), block.keys(v, 2)
        scores = _einsum("gsk,gqk->gsq", keys, queries).reshape(G, -1, R, BLOCK)
        mask = block.mask(*segments).T[:, None]
        weights = jnp.exp(jnp.where(mask, scores, -jnp.inf) - per_query(normalizer))
        d_weights = _einsum("gsk,gqk->gsq", values, outer).reshape(weights.shape)

        d_scores = narrow(weights * (d_weights - per_query(common)))
        d_values = _einsum("gsq,gqk->gsk", narrow(weights), outer)
        d_keys = _einsum("gsq,gqk->gsk", d_scores, queries)
        d_queries = _einsum("gks,gsq->gkq", keys.swapaxes(1, 2), d_scores).swapaxes(1, 2)
        sums = block.add_to_keys(sums[0], d_keys), block.add_to_keys(sums[1], d_values)
        return sums, d_queries.reshape(G, R, BLOCK, K).astype(q.dtype)

    start = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    (d_keys, d_values), blocks = _scan(attend, start, *segments)
    return _join(blocks, B), d_keys.astype(k.dtype), d_values.astype(v.dtype), None, None


_attend.defvjp(_forward, _backward)


def _scan(
    function: Callable[[Any, _Block], tuple[Any, Any]],
    carry: Any,
    query_segments: jax.Array,
    key_segments: jax.Array,
) -> tuple[Any, Any]:
    """Scans a function over the query blocks of all sequences: (carry, results [B * T, ...])."""
    B, T = len(query_segments), query_segments.shape[1] // BLOCK
    sizes = _branch_sizes(T)

    def step(carry: Any, xs: tuple[jax.Array, ...]) -> tuple[Any, Any]:
        sequence, index, choice = xs

        def branch(size: int) -> Callable[[Any], tuple[Any, Any]]:
            return lambda carry: function(carry, _Block(sequence, index, size))

        result: tuple[Any, Any] = jax.lax.switch(choice, [branch(n) for n in sizes], carry)
        return result

    sequences, indices = jnp.indices((B, T)).reshape(2, -1)
    needed = _key_blocks_needed(query_segments, key_segments).reshape(-1)
    choices = jnp.searchsorted(sizes, needed, method="compare_all")
    return jax.lax.scan(step, carry, (sequences, indices, choices))


def _key_blocks_needed(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """int32[B, T]: how many key blocks each query block uses, its own being the last.

    A query block uses a key block if their ranges of segment ids overlap. An exact answer would
    take [L, L] comparisons; this one includes more blocks than needed if segments are unordered.
    """
    T = query_segments.shape[1] // BLOCK

    def ranges(segments: jax.Array) -> tuple[jax.Array, jax.Array]:
        last = jnp.iinfo(segments.dtype).max  # for padding, which usually ends a sequence
        blocks = jnp.where(segments > 0, segments, last).reshape(-1, T, BLOCK)
        return blocks.min(axis=-1), blocks.max(axis=-1)

    (query_least, query_most), (key_least, key_most) = map(ranges, (query_segments, key_segments))
    overlap = (key_least[:, None] <= query_most[..., None]) & (
        query_least[..., None] <= key_most[:, None]
    )
    return jnp.arange(T) + 1 - jnp.argmax(overlap & np.tri(T, dtype=bool), axis=-1)


def _branch_sizes(most: int) -> np.ndarray:
    """The numbers of key blocks that have their own branch: 1, 2, 3, 4, 6, 8, 12, ..., `most`."""
    steps = [2**i * n // 2 for i in range(most.bit_length()) for n in (2, 3)]
    return np.array(sorted({n for n in steps if n < most} | {most}))


def _einsum(formula: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(formula, x, y, preferred_element_type=jnp.float32)


def _join(blocks: jax.Array, batch: int) -> jax.Array:
    """[B * T, G, R, Q, ...] -> [B, G, R, L, ...]."""
    blocks = blocks.reshape(batch, -1, *blocks.shape[1:])
    joined = jnp.moveaxis(blocks, 1, 3)
    return joined.reshape(*joined.shape[:3], -1, *joined.shape[5:])
