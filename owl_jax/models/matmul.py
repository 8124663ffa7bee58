"""Matmuls with weights stored in fewer bits than the compute dtype.

An accelerator widens such a weight on its way into the matmul. XLA on CPU materialises the wide
weight and hoists it out of the loop over layers, so that a bfloat16 model takes three times its
size in memory. On CPU the matmul is therefore blockwise: it widens one block of the weight at a
time.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from owl_jax.models.platform import platform

# Elements of a block: in float32 about the size of an L2 cache.
_BLOCK = 2**19


def matmul(x: jax.Array, kernel: jax.Array, depth: int) -> jax.Array:
    """x [..., *in] times kernel [*in, *out], contracting `depth` axes; in x's dtype."""

    def direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.tensordot(x, widen(kernel, x.dtype), axes=depth)

    def as_matrices(x: jax.Array, kernel: jax.Array) -> jax.Array:
        rows, batch = math.prod(kernel.shape[:depth]), x.shape[: x.ndim - depth]
        y = x.reshape(*batch, rows) @ widen(kernel, x.dtype).reshape(rows, -1)
        return y.reshape(*batch, *kernel.shape[depth:])

    def blockwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
        rows = math.prod(kernel.shape[:depth])
        flat_x, flat_kernel = x.reshape(-1, rows), kernel.reshape(rows, -1)
        size = rows // _number_of_blocks(rows, kernel.size)

        def add(i: jax.Array, total: jax.Array) -> jax.Array:
            columns = jax.lax.dynamic_slice_in_dim(flat_x, i * size, size, axis=1)
            block = jax.lax.dynamic_slice_in_dim(flat_kernel, i * size, size)
            return total + columns @ widen(block, x.dtype)

        # Make the zeros depend on x: XLA would otherwise allocate all accumulators at the start.
        zeros = jnp.broadcast_to(flat_x[:, :1] * 0, (len(flat_x), flat_kernel.shape[1]))
        total = jax.lax.fori_loop(0, rows // size, add, zeros)
        return total.reshape(*x.shape[: x.ndim - depth], *kernel.shape[depth:])

    if not _needs_blocks(x, kernel):
        # If several axes are contracted, here or in the gradient, XLA on CPU transposes the weight
        # in every call.
        return (as_matrices if platform() == "cpu" else direct)(x, kernel)
    result: jax.Array = jax.lax.platform_dependent(x, kernel, cpu=blockwise, default=direct)
    return result


def matmul_transposed(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x [..., D] @ weight[V, D].T -> [..., V], in x's dtype."""

    def direct(x: jax.Array, weight: jax.Array) -> jax.Array:
        return jnp.einsum("...d,vd->...v", x, widen(weight, x.dtype))

    def blockwise(x: jax.Array, weight: jax.Array) -> jax.Array:
        number = _number_of_blocks(len(weight), weight.size)
        blocks = weight.reshape(number, -1, weight.shape[1])
        parts = jax.lax.map(lambda block: direct(x, block), blocks)
        return jnp.moveaxis(parts, 0, -2).reshape(*x.shape[:-1], len(weight))

    if not _needs_blocks(x, weight):
        return direct(x, weight)
    result: jax.Array = jax.lax.platform_dependent(x, weight, cpu=blockwise, default=direct)
    return result


def bits_of(weight: np.ndarray) -> np.ndarray:
    """A bfloat16 weight viewed as uint16, for CPU. `matmul` accepts it.

    XLA on CPU widens a whole bfloat16 array before it slices a block.
    """
    return weight.view(np.uint16)


def widen(weight: jax.Array, dtype: Any) -> jax.Array:
    """A weight as `dtype`; uint16 holds bfloat16 (`bits_of`), the upper half of float32."""
    if weight.dtype == jnp.uint16:
        weight = jax.lax.bitcast_convert_type(weight.astype(jnp.uint32) << 16, jnp.float32)
    return weight.astype(dtype)


def _needs_blocks(x: jax.Array, weight: jax.Array) -> bool:
    return bool(weight.dtype.itemsize < x.dtype.itemsize) and weight.size > _BLOCK


def _number_of_blocks(rows: int, elements: int) -> int:
    """The fewest equal blocks of rows with at most _BLOCK elements each."""
    fewest = math.ceil(elements / _BLOCK)
    return next(n for n in range(fewest, rows + 1) if rows % n == 0)
