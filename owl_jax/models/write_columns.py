"""Writes new tokens to a cache whose slots lie along the columns of a TPU's tiles: a Pallas kernel.

Letters: B rows, S slots of a row, G key heads, K head width.

XLA stores the slots of a cache [..., S, K] so unless K is a multiple of 128
(models/attention/ragged_decode.py). Its scatter would copy the whole cache to another layout and
back. A program of this kernel's grid reads the 128 columns around one row's slot in one layer,
changes one of them, and writes them back.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from owl_jax.models.attention.packed_kernels import mesh_axes
from owl_jax.models.platform import platform

NAME = "write_columns"
LANES = 128  # columns of a tile
_MAX_BYTES = 1 << 20  # of keys in a program; two buffers of keys and values, in and out: 8 MB


def suits(old: jax.Array) -> bool:
    """Whether the kernel can write to keys [layers, B, G, S, K]."""
    if old.ndim != 5:
        return False
    G, K = old.shape[2], old.shape[4]
    rows = 32 if old.dtype == jnp.int8 else 16  # of a tile, at least
    whole_tiles = K % rows == 0 or K == 1  # the scales of an int8 cache have a width of 1
    return K < LANES and whole_tiles and G * K * LANES * old.dtype.itemsize <= _MAX_BYTES


def write_columns(cache: dict[str, Any], new: dict[str, Any], slots: jax.Array) -> dict[str, Any]:
    """Writes one token of each row. Interpreted, hence slow, except on a TPU.

    cache: "k" and "v", each [layers, B, G, S, K], updated in place if donated. new: the same,
    [layers, B, G, 1, K]; other leaves are left out. slots: int32[B]. On a mesh the kernel runs
    under `jax.shard_map`.
    """
    names = list(cache)
    old = [cache[name].swapaxes(3, 4) for name in names]
    run = _run
    if not jax.sharding.get_abstract_mesh().empty:
        _, B, G = old[0].shape[:3]
        batch = mesh_axes("batch", B)
        leaves = PartitionSpec(None, batch, mesh_axes("act_heads", G))
        run = jax.shard_map(
            _run,
            in_specs=(PartitionSpec(batch), leaves, leaves),
            out_specs=leaves,
            check_vma=False,
        )
    given = [new[name].astype(cache[name].dtype) for name in names]
    written = run(slots, given, old)
    return {name: leaf.swapaxes(3, 4) for name, leaf in zip(names, written, strict=True)}


def _run(slots: jax.Array, new: list[jax.Array], old: list[jax.Array]) -> list[jax.Array]:
    """The kernel on one device. new: each [layers, B, G, 1, K]; old: each [layers, B, G, K, S]."""
    layers, B, G = old[0].shape[:3]
    widths = [leaf.shape[3] for leaf in old]
    tokens = [
        pl.BlockSpec((1, 1, G, 1, K), lambda layer, row, slots: (layer, row, 0, 0, 0))
        for K in widths
    ]
    columns = [
        pl.BlockSpec(
            (1, 1, G, K, LANES), lambda layer, row, slots: (layer, row, 0, 0, slots[row] // LANES)
        )
        for K in widths
    ]
    count = len(old)
    written: list[jax.Array] = pl.pallas_call(
        _kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(layers, B),
            in_specs=tokens + columns,
            out_specs=columns,
        ),
        out_shape=[jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in old],
        input_output_aliases={1 + count + number: number for number in range(count)},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=platform() != "tpu",
        name=NAME,
    )(slots, *new, *old)
    return written


def _kernel(slots_ref: Any, *refs: Any) -> None:
    count = len(refs) // 3
    own = jax.lax.broadcasted_iota(jnp.int32, (1, 1, LANES), 2)
    is_slot = own == slots_ref[pl.program_id(1)] % LANES
    for new_ref, old_ref, out_ref in zip(
        refs[:count], refs[count : 2 * count], refs[2 * count :], strict=True
    ):
        K = new_ref.shape[4]
        rows, columns = (jax.lax.broadcasted_iota(jnp.int32, (1, K, K), axis) for axis in (1, 2))
        # Transposes [G, 1, K] to [G, K, 1]: the diagonal of K copies.
        new = jnp.where(rows == columns, new_ref[0, 0].astype(jnp.float32), 0.0)
        new = new.sum(axis=2, keepdims=True)
        old = old_ref[0, 0].astype(jnp.float32)
        out_ref[0, 0] = jnp.where(is_slot, new, old).astype(out_ref.dtype)
