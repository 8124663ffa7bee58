"""Products with weights that are kept in fewer bits than what is computed in.

An accelerator widens such a weight on its way into the product. The CPU's compiler writes it down
in full first, and for all layers at once, before any loop: a bfloat16 model then takes three times
its size. There the product goes by blocks of the weight, each widened when its turn comes.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from owl_jax.models.platform import platform

# Elements of a block; wide, it fits into a second-level cache or nearly so.
_BLOCK = 2**19


def product(x: jax.Array, kernel: jax.Array, depth: int) -> jax.Array:
    """x [..., *in] times kernel [*in, *out], contracting `depth` axes; in x's dtype."""

    def at_once(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.tensordot(x, widen(kernel, x.dtype), axes=depth)

    def of_matrices(x: jax.Array, kernel: jax.Array) -> jax.Array:
        rows, batch = math.prod(kernel.shape[:depth]), x.shape[: x.ndim - depth]
        y = x.reshape(*batch, rows) @ widen(kernel, x.dtype).reshape(rows, -1)
        return y.reshape(*batch, *kernel.shape[depth:])

    def by_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
        rows = math.prod(kernel.shape[:depth])
        flat_x, flat_kernel = x.reshape(-1, rows), kernel.reshape(rows, -1)
        size = rows // _number_of_blocks(rows, kernel.size)

        def add(i: jax.Array, total: jax.Array) -> jax.Array:
            columns = jax.lax.dynamic_slice_in_dim(flat_x, i * size, size, axis=1)
            block = jax.lax.dynamic_slice_in_dim(flat_kernel, i * size, size)
            return total + columns @ widen(block, x.dtype)

        # Zeros that wait for x: those of all products would be made at the start.
        zeros = jnp.broadcast_to(flat_x[:, :1] * 0, (len(flat_x), flat_kernel.shape[1]))
        total = jax.lax.fori_loop(0, rows // size, add, zeros)
        return total.reshape(*x.shape[: x.ndim - depth], *kernel.shape[depth:])

    if not _goes_by_blocks(x, kernel):
        # Where several axes are contracted, in the product or its gradient, a CPU's compiler
        # transposes the weight every time.
        return (of_matrices if platform() == "cpu" else at_once)(x, kernel)
    result: jax.Array = jax.lax.platform_dependent(x, kernel, cpu=by_blocks, default=at_once)
    return result


def product_with_rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    """x [..., D] times each row of rows [V, D]: [..., V], in x's dtype."""

    def at_once(x: jax.Array, rows: jax.Array) -> jax.Array:
        return jnp.einsum("...d,vd->...v", x, widen(rows, x.dtype))

    def by_blocks(x: jax.Array, rows: jax.Array) -> jax.Array:
        number = _number_of_blocks(len(rows), rows.size)
        blocks = rows.reshape(number, -1, rows.shape[1])
        parts = jax.lax.map(lambda block: at_once(x, block), blocks)
        return jnp.moveaxis(parts, 0, -2).reshape(*x.shape[:-1], len(rows))

    if not _goes_by_blocks(x, rows):
        return at_once(x, rows)
    result: jax.Array = jax.lax.platform_dependent(x, rows, cpu=by_blocks, default=at_once)
    return result


def bits_of(weight: np.ndarray) -> np.ndarray:
    """A bfloat16 weight as integers, without a copy: the form for a CPU, whose compiler would widen
    the whole of an array that it cuts blocks from. `product` takes it for what it is."""
    return weight.view(np.uint16)


def widen(weight: jax.Array, dtype: Any) -> jax.Array:
    """A weight as `dtype`; integers of 16 bits are bfloat16's (`bits_of`), float32's upper half."""
    if weight.dtype == jnp.uint16:
        weight = jax.lax.bitcast_convert_type(weight.astype(jnp.uint32) << 16, jnp.float32)
    return weight.astype(dtype)


def _goes_by_blocks(x: jax.Array, weight: jax.Array) -> bool:
    return bool(weight.dtype.itemsize < x.dtype.itemsize) and weight.size > _BLOCK


def _number_of_blocks(rows: int, elements: int) -> int:
    """The fewest equal blocks of rows that are each small enough."""
    least = math.ceil(elements / _BLOCK)
    return next(n for n in range(least, rows + 1) if rows % n == 0)
