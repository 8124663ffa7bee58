"""Matmuls with weights stored in fewer bits than the compute dtype.

An accelerator widens such a weight on its way into the matmul. XLA on CPU materialises the wide
weight and hoists it out of the loop over layers, so that a bfloat16 model takes three times its
size in memory. On CPU the matmul is therefore blockwise: it widens one block of the weight at a
time.

The bits of a bfloat16 weight (`bits_of`), inference's form on a CPU, are not widened: blocks of
them are multiplied as bfloat16, summed in float32. That rounds x to bfloat16, as an accelerator
does by default. Under differentiation x is not rounded.

Letters: B rows of x, D contracted, F produced, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from owl_jax.models.platform import platform

# Elements of a block: in float32 about the size of an L2 cache.
_BLOCK = 2**19
# Elements of a block of bits. Each block costs a pass over the sums, long ones for a vocabulary.
_BITS_BLOCK = 2**21


def matmul(x: jax.Array, kernel: jax.Array, depth: int) -> jax.Array:
    """x [..., *in] times kernel [*in, *out], contracting `depth` axes; in x's dtype.

    On CPU, float32 x is rounded to bfloat16 if the kernel is the bits of a large weight.
    """

    def direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.tensordot(x, widen(kernel, x.dtype), axes=depth)

    def as_matrices(x: jax.Array, kernel: jax.Array) -> jax.Array:
        rows, batch = math.prod(kernel.shape[:depth]), x.shape[: x.ndim - depth]
        y = x.reshape(*batch, rows) @ widen(kernel, x.dtype).reshape(rows, -1)
        return y.reshape(*batch, *kernel.shape[depth:])

    def blockwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
        rows = math.prod(kernel.shape[:depth])
        multiply = _rounded if _is_rounded(x, kernel) else _blockwise
        y = multiply(x.reshape(-1, rows), kernel.reshape(rows, -1))
        return y.reshape(*x.shape[: x.ndim - depth], *kernel.shape[depth:])

    if not _needs_blocks(x, kernel):
        # If several axes are contracted, here or in the gradient, XLA on CPU transposes the weight
        # in every call.
        return (as_matrices if platform() == "cpu" else direct)(x, kernel)
    result: jax.Array = jax.lax.platform_dependent(x, kernel, cpu=blockwise, default=direct)
    return result


def matmul_transposed(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x [..., D] @ weight[V, D].T -> [..., V], in x's dtype; x is rounded as in `matmul`."""

    def direct(x: jax.Array, weight: jax.Array) -> jax.Array:
        return jnp.einsum("...d,vd->...v", x, widen(weight, x.dtype))

    def blockwise(x: jax.Array, weight: jax.Array) -> jax.Array:
        multiply = _rounded_transposed if _is_rounded(x, weight) else _blockwise_transposed
        return multiply(x.reshape(-1, x.shape[-1]), weight).reshape(*x.shape[:-1], len(weight))

    if not _needs_blocks(x, weight):
        return direct(x, weight)
    result: jax.Array = jax.lax.platform_dependent(x, weight, cpu=blockwise, default=direct)
    return result


def _blockwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, D] times kernel [D, F], of which one block is widened at a time; in x's dtype."""
    total = _sum_of_blocks(x, kernel, _BLOCK, lambda x, block: x @ widen(block, x.dtype))
    return total.astype(x.dtype)


def _blockwise_transposed(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x [B, D] @ weight[V, D].T -> [B, V] in x's dtype, widening one block at a time."""
    blocks = weight.reshape(_number_of_blocks(len(weight), weight.size), -1, weight.shape[1])
    parts = jax.lax.map(lambda block: x @ widen(block, x.dtype).T, blocks)
    return jnp.moveaxis(parts, 0, 1).reshape(len(x), len(weight))


@jax.custom_vjp
def _rounded(x: jax.Array, bits: jax.Array) -> jax.Array:
    """x float32[B, D], rounded to bfloat16, times bits uint16[D, F] -> float32[B, F].

    XLA's library for matmuls (YNNPACK) multiplies bfloat16 without a wide copy on any CPU, and at
    up to twice the speed of float32 where the CPU has instructions for it.
    """

    def multiply(rows: jax.Array, block: jax.Array) -> jax.Array:
        narrow = jax.lax.bitcast_convert_type(block, jnp.bfloat16)
        return jnp.dot(rows, narrow, preferred_element_type=jnp.float32)

    return _sum_of_blocks(_narrow_rows(x), bits, _BITS_BLOCK, multiply)[: len(x)]


@jax.custom_vjp
def _rounded_transposed(x: jax.Array, bits: jax.Array) -> jax.Array:
    """x float32[B, D], rounded to bfloat16, times bits uint16[V, D] transposed."""
    rows = _narrow_rows(x)

    def multiply(block: jax.Array) -> jax.Array:
        narrow = jax.lax.bitcast_convert_type(block, jnp.bfloat16)
        return jnp.einsum("bd,vd->bv", rows, narrow, preferred_element_type=jnp.float32)

    number = _number_of_blocks(len(bits), bits.size, _BITS_BLOCK)
    parts = jax.lax.map(multiply, bits.reshape(number, -1, bits.shape[1]))
    return jnp.moveaxis(parts, 0, 1).reshape(len(rows), -1)[: len(x)]


def _differentiate(rounded: Any, exact: Callable[[jax.Array, jax.Array], jax.Array]) -> None:
    """Makes `exact` the function that is differentiated in place of `rounded`."""
    rounded.defvjp(
        lambda x, bits: (exact(x, bits), (x, bits)),
        # Bits have no gradient.
        lambda saved, g: (jax.vjp(lambda x: exact(x, saved[1]), saved[0])[1](g)[0], None),
    )


_differentiate(_rounded, _blockwise)
_differentiate(_rounded_transposed, _blockwise_transposed)


def _narrow_rows(x: jax.Array) -> jax.Array:
    """x as bfloat16. One row becomes two: XLA's own code for vectors widens the weight."""
    return jnp.pad(x, ((0, max(2 - len(x), 0)), (0, 0))).astype(jnp.bfloat16)


def _sum_of_blocks(
    x: jax.Array,
    kernel: jax.Array,
    block: int,
    multiply: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """The sum of multiply(x[:, rows], kernel[rows]) over blocks of rows of the kernel."""
    D, F = kernel.shape
    size = D // _number_of_blocks(D, kernel.size, block)

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        columns = jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=1)
        return total + multiply(columns, jax.lax.dynamic_slice_in_dim(kernel, i * size, size))

    # Make the zeros depend on x: XLA would otherwise allocate all accumulators at the start.
    zero = (x[:, :1] * 0).astype(jnp.float32 if x.dtype == jnp.bfloat16 else x.dtype)
    return jax.lax.fori_loop(0, D // size, add, jnp.broadcast_to(zero, (len(x), F)))


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


def _is_rounded(x: jax.Array, weight: jax.Array) -> bool:
    return bool(weight.dtype == jnp.uint16 and x.dtype == jnp.float32)


def _number_of_blocks(rows: int, elements: int, block: int | None = None) -> int:
    """The fewest equal blocks of rows with at most `block` elements each (default: _BLOCK).

    At least two: XLA hoists a single block, the whole weight, out of loops.
    """
    fewest = max(2, math.ceil(elements / (block or _BLOCK)))
    return next((n for n in range(fewest, rows + 1) if rows % n == 0), rows)
