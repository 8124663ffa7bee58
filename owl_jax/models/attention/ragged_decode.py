"""Ragged decode attention: a Pallas kernel for TPUs that reads only the slots that a row holds.

Letters: B rows, S slots of a row, H heads, G key heads, R heads per key head, K head width.

A program of the grid computes one row. It copies the row's slots from HBM in blocks, each while the
one before it is computed; after a row's last block, the first of the next row that has one. A block
is copied in chunks, so that hardly more is read than there is. The softmax starts with the new
token's own key and value and goes on block by block (arXiv 2205.14135, algorithm 1).

A TPU stores an array in tiles of 128 columns. Unless K is a multiple of 128, XLA stores the slots
of a cache [..., S, K] along the columns, without padding. The kernel then takes [..., K, S], which
is the same memory; for [..., S, K] XLA would copy the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from owl_jax.models.attention.mask import AttentionMask
from owl_jax.models.attention.packed_kernels import MASKED, mesh_axes
from owl_jax.models.cache import Past
from owl_jax.models.int8_cache import scale_of
from owl_jax.models.platform import platform
from owl_jax.models.remat import named

NAME = "ragged_decode"
CHUNK = 128  # slots that are copied at once; fewer if S is no multiple or the heads are many
_CHUNKS = (CHUNK, 64, 32, 16)
_LANES = 128  # columns of a tile
_TILE_BYTES = 32  # of a column of a tile
_MAX_CHUNK_BYTES = 2 << 20  # two buffers each for keys and values leave half of a kernel's 16 MB
# Of keys in a block. In the compiler's schedule for v5e, a block of 256 slots of four heads of
# width 128 in bfloat16 takes 380 cycles, 170 of them to start the copies of the next; its own
# copies take 960 at full bandwidth.
_BLOCK_BYTES = 256 << 10


def suits(past: Past, q: jax.Array, mask: AttentionMask) -> bool:
    """Whether the kernel computes this call; arguments as in `attend` (dispatch.py)."""
    keys = past.cache["k"]
    return (
        q.shape[1] == 1
        and mask.past is not None
        and mask.past.rows is None
        and keys.dtype in (q.dtype, jnp.int8)
        and q.dtype in (jnp.bfloat16, jnp.float32)
        and _chunk(keys) is not None
    )


def ragged_decode(
    past: Past,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    slopes: jax.Array | None,
    window: int = 0,
) -> jax.Array:
    """Attention of one new token per row after a cache, for calls that `suits` accepts.

    Arguments and result as in `attend` (dispatch.py): q [B, 1, H, K], k and v [B, G, 1, K].
    Interpreted, hence slow, except on a TPU. On a mesh the kernel runs under `jax.shard_map`,
    sharded by row and head. A layer of a stacked cache is not sliced from it. Keys and values in
    int8 are read as they are; their scales are applied to scores and weights.
    """
    assert mask.past is not None
    B, _, H, K = q.shape
    G = k.shape[1]
    chunk = _chunk(past.cache["k"])
    assert chunk is not None
    cached = []
    for name in ("k", "v", scale_of("k"), scale_of("v"))[: len(past.cache)]:
        leaf = past.cache[name]
        leaf = leaf[None] if past.layer is None else leaf
        cached.append(leaf.swapaxes(3, 4) if _is_by_column(leaf.shape[4]) else leaf)
    layer = jnp.zeros(1, jnp.int32) if past.layer is None else past.layer.reshape(1)
    sees_itself = mask.query_segments == mask.key_segments
    rows = jnp.concatenate([mask.past.lengths[:, None], mask.query_positions, sees_itself], axis=1)
    grouped = q.reshape(B, G, H // G, K)
    by_head = None if slopes is None else slopes.astype(jnp.float32).reshape(G, H // G, 1)
    run: Callable[..., jax.Array] = partial(_run, chunk=chunk, window=window)
    if not jax.sharding.get_abstract_mesh().empty:
        batch, heads = mesh_axes("batch", B), mesh_axes("act_heads", G)
        by_row = PartitionSpec(batch, heads)
        leaves = PartitionSpec(None, batch, heads)
        run = jax.shard_map(
            run,
            in_specs=(
                *(PartitionSpec(), PartitionSpec(batch), by_row, by_row, by_row, leaves),
                PartitionSpec(heads),
            ),
            out_specs=by_row,
            check_vma=False,
        )
    context = run(layer, rows.astype(jnp.int32), grouped, k, v, cached, by_head)
    return named("context", context.reshape(B, 1, H, K))


def _run(
    layer: jax.Array,
    rows: jax.Array,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    cached: Sequence[jax.Array],
    slopes: jax.Array | None,
    *,
    chunk: int,
    window: int,
) -> jax.Array:
    """The kernel on one device.

    layer: int32[1]. rows: int32[B, 3]: the length, the query's position, and whether the new token
    attends to itself. q: [B, G, R, K]. k, v: [B, G, 1, K]. cached: keys, values and, if they are
    int8, the scales of both: [layers, B, G, S, K], or [layers, B, G, K, S] if `_is_by_column`; K is
    1 for scales. slopes: float32[G, R, 1] or None.

    Returns: [B, G, R, K].
    """
    B, G, R, K = q.shape
    keys = cached[0]
    S = keys.shape[4 if _is_by_column(K) else 3]
    chunk_bytes = G * chunk * K * keys.dtype.itemsize
    block = chunk * max(1, min(_BLOCK_BYTES // chunk_bytes, S // chunk))
    per_row = lambda *shape: pl.BlockSpec((1, *shape), lambda row, *_: (row, 0, 0, 0))  # noqa: E731
    in_hbm = pl.BlockSpec(memory_space=pl.ANY)
    in_specs = [per_row(G, R, K), per_row(G, 1, K), per_row(G, 1, K), *[in_hbm] * len(cached)]
    given = [q, k, v, *cached]
    if slopes is not None:
        in_specs.append(pl.BlockSpec((G, R, 1), lambda *_: (0, 0, 0)))
        given.append(slopes)
    shape = (K, block) if _is_by_column(K) else (block, K)
    shapes = (shape, shape, (1, block), (1, block))[: len(cached)]
    buffers = [
        pltpu.VMEM((2, G, *shape), leaf.dtype) for leaf, shape in zip(cached, shapes, strict=True)
    ]
    return pl.pallas_call(
        partial(
            _kernel,
            chunk=chunk,
            window=window,
            num_cached=len(cached),
            has_slopes=slopes is not None,
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(B,),
            in_specs=in_specs,
            out_specs=per_row(G, R, K),
            scratch_shapes=[
                *buffers,
                pltpu.SemaphoreType.DMA((len(cached), 2)),
                pltpu.SMEM((1,), jnp.int32),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=platform() != "tpu",
        name=NAME,
    )(layer, rows, *given)


def _kernel(
    layer_ref: Any,
    rows_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    *refs: Any,
    chunk: int,
    window: int,
    num_cached: int,
    has_slopes: bool,
) -> None:
    cached_refs, refs = refs[:num_cached], refs[num_cached:]
    slopes_ref = refs[0] if has_slopes else None
    out_ref, *buffers, semaphores, filled_ref = refs[has_slopes:]
    keys_buffer, values_buffer, *scale_buffers = buffers
    K = q_ref.shape[3]
    by_column = _is_by_column(K)
    key_axis, slot_axis = (1, 2) if by_column else (2, 1)
    slot_axes = (slot_axis, slot_axis, 2, 2)[:num_cached]
    block = keys_buffer.shape[1 + slot_axis]
    row, num_rows = pl.program_id(0), pl.num_programs(0)

    def first_slot(row: jax.Array) -> jax.Array:
        """The first chunk of a row that its query attends to."""
        if not window:
            return jnp.int32(0)
        first = jnp.maximum(rows_ref[row, 1] - (window - 1), 0)
        return first // chunk * chunk

    def num_blocks(row: jax.Array) -> jax.Array:
        held = jnp.maximum(rows_ref[row, 0] - first_slot(row), 0)
        return (held + block - 1) // block

    def next_row(row: jax.Array) -> jax.Array:
        """The first row from `row` on that has blocks; num_rows if none has."""

        def is_empty(row: jax.Array) -> jax.Array:
            within = jnp.minimum(row, num_rows - 1)
            return ((row < num_rows) & (num_blocks(within) == 0)).astype(jnp.int32)

        def go_on(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return carry[0] + 1, is_empty(carry[0] + 1)

        return jax.lax.while_loop(lambda carry: carry[1] == 1, go_on, (row, is_empty(row)))[0]

    def copy(row: jax.Array, index: jax.Array, buffer: jax.Array, does: str) -> None:
        """Starts, or waits for, the copies of block `index` of a row."""
        for offset in range(0, block, chunk):
            slot = first_slot(row) + index * block + offset

            @pl.when(slot < rows_ref[row, 0])
            def _(slot: jax.Array = slot, offset: int = offset) -> None:
                slots = pl.ds(pl.multiple_of(slot, chunk), chunk)
                pairs = zip(cached_refs, buffers, slot_axes, strict=True)
                for number, (cached, here, axis) in enumerate(pairs):
                    whole = (slice(None),) * axis
                    source = layer_ref[0], row, *whole, slots
                    target = buffer, *whole, pl.ds(offset, chunk)
                    semaphore = semaphores.at[number, buffer]
                    copied = pltpu.make_async_copy(cached.at[source], here.at[target], semaphore)
                    getattr(copied, does)()

    @pl.when(row == 0)
    def _() -> None:
        filled_ref[0] = 0
        # A weight of zero times what is left in a buffer must be zero, not NaN.
        for weighed in (values_buffer, *scale_buffers[1:]):
            weighed[...] = jnp.zeros_like(weighed)
        first = next_row(row)

        @pl.when(first < num_rows)
        def _() -> None:
            copy(first, jnp.int32(0), jnp.int32(0), "start")

    length, position = rows_ref[row, 0], rows_ref[row, 1]
    q, count = q_ref[0], num_blocks(row)

    def of_block(index: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        highest, total, context = carry
        buffer = filled_ref[0]
        is_last = index + 1 == count
        following = jax.lax.select(is_last, next_row(row + 1), row)

        @pl.when(following < num_rows)
        def _() -> None:
            copy(following, jax.lax.select(is_last, 0, index + 1), 1 - buffer, "start")

        filled_ref[0] = 1 - buffer
        copy(row, index, buffer, "wait")

        scores = _matmul(q, keys_buffer[buffer].astype(q.dtype), key_axis) / math.sqrt(K)
        if scale_buffers:
            scores *= scale_buffers[0][buffer]
        slots = jax.lax.broadcasted_iota(jnp.int32, (1, 1, block), 2)
        slots += first_slot(row) + index * block
        if slopes_ref is not None:
            scores += slopes_ref[...] * (slots - position).astype(jnp.float32)
        seen = slots < length
        if window:
            seen &= position - slots < window
        scores = jnp.where(seen, scores, MASKED)
        new_highest = jnp.maximum(highest, scores.max(axis=-1, keepdims=True))
        weights, shrink = jnp.exp(scores - new_highest), jnp.exp(highest - new_highest)
        total = total * shrink + weights.sum(axis=-1, keepdims=True)
        if scale_buffers:
            weights *= scale_buffers[1][buffer]
        values = values_buffer[buffer].astype(q.dtype)
        context = context * shrink + _matmul(weights.astype(values.dtype), values, slot_axis)
        return new_highest, total, context

    wide_q, own_key, own_value = (x.astype(jnp.float32) for x in (q, k_ref[0], v_ref[0]))
    own = (wide_q * own_key).sum(axis=-1, keepdims=True) / math.sqrt(K)
    own = jnp.where(rows_ref[row, 2] == 1, own, MASKED)
    start = own, jnp.ones_like(own), jnp.broadcast_to(own_value, q.shape)
    _, total, context = jax.lax.fori_loop(0, count, of_block, start)
    out_ref[0] = (context / total).astype(out_ref.dtype)


def _matmul(x: jax.Array, y: jax.Array, axis: int) -> jax.Array:
    """float32[G, R, ...]: x [G, R, N] times y, whose axis `axis` is N."""
    dimensions = (((2,), (axis,)), ((0,), (0,)))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)


def _is_by_column(head_width: int) -> bool:
    """Whether XLA stores the slots of a cache with this head width along the columns of tiles."""
    return head_width % _LANES > 0


def _chunk(keys: jax.Array) -> int | None:
    """How many slots of keys [..., G, S, K] are copied at once; None if the kernel cannot."""
    G, S, K = keys.shape[-3:]
    size = keys.dtype.itemsize
    if _is_by_column(K) and (K > _LANES or K * size % _TILE_BYTES):
        return None
    slot_bytes = G * K * size
    # Scales are stored with their slots along the columns.
    chunks = (_LANES,) if _is_by_column(K) or keys.dtype == jnp.int8 else _CHUNKS
    return next((n for n in chunks if S % n == 0 and n * slot_bytes <= _MAX_CHUNK_BYTES), None)
