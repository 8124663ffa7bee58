"""A hash of a tree of arrays that does not depend on their sharding."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Smaller arrays are summed by NumPy: that takes less time than a program takes to compile.
_LEAST_ON_DEVICE = 2**16  # elements


def tree_hash(params: Any) -> str:
    """Hashes the exact bits of a tree of arrays.

    The hash is sha256 over the sorted lines "path shape dtype sum". Each sum is computed modulo
    2^32, for large arrays on the device: it adds the bits of each element, as an unsigned integer,
    times an odd weight that depends on the element's index. The order of addition, and so the
    sharding, makes no difference. One changed element always changes the hash; a transposed matrix
    or swapped rows almost always do. It detects mistakes, not tampering.

    Args:
      params: a tree of arrays of any sharding; dtypes of at most 32 bits.

    Returns:
      "sha256:" and 64 hexadecimal digits.
    """
    shapes, leaves = described(params), flatten(params)
    small = jax.device_get({path: leaf for path, leaf in leaves.items() if _is_small(leaf)})
    large = {path: leaf for path, leaf in leaves.items() if path not in small}
    sums = {path: _bit_sum_on_host(array) for path, array in small.items()}
    sums |= jax.device_get(_bit_sums(large)) if large else {}
    lines = [
        f"{path} {shapes[path][0]} {shapes[path][1]} {int(total)}"
        for path, total in sorted(sums.items())
    ]
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_small(leaf: Any) -> bool:
    """Whether this process has the whole array, a small one, as the numbers that are stored."""
    return (
        leaf.size < _LEAST_ON_DEVICE
        and not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        and leaf.dtype.itemsize <= 4  # JAX would narrow wider numbers of NumPy
        and getattr(leaf, "is_fully_addressable", True)
    )


def _bit_sum_on_host(array: np.ndarray) -> np.uint32:
    """What `_bit_sum` computes."""
    array = np.asarray(array)
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = array.view(f"uint{array.dtype.itemsize * 8}")
    bits = array.astype(np.uint32)
    position = np.arange(array.size, dtype=np.uint32).reshape(array.shape) * np.uint32(0x9E3779B1)
    position ^= position >> 15
    return np.sum((bits ^ (bits >> 16)) * (2 * position + 1), dtype=np.uint32)


@jax.jit
def _bit_sums(tree: Any) -> Any:
    return jax.tree.map(_bit_sum, tree)


@jax.jit  # traces the many arrays of one shape and dtype only once
def _bit_sum(array: jax.Array) -> jax.Array:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if jnp.issubdtype(array.dtype, jnp.floating):
        width = array.dtype.itemsize * 8
        bits = jax.lax.bitcast_convert_type(array, f"uint{width}").astype(jnp.uint32)
    else:
        bits = array.astype(jnp.uint32)
    # Computed from one iota per dimension: flattening a sharded array would gather it.
    position = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(array.shape):
        position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(
            jnp.uint32, array.shape, axis
        )
    # Mix both bijectively. Otherwise changes in the high bits alone, as in bfloat16 numbers stored
    # in 32 bits, could vanish modulo 2^32.
    position = position * jnp.uint32(0x9E3779B1)
    position ^= position >> 15
    return jnp.sum((bits ^ (bits >> 16)) * (2 * position + 1), dtype=jnp.uint32)


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path; tuples and attributes get the same paths as in Orbax's metadata."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def described(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype by path, as Orbax stores them."""
    found = {}
    for path, leaf in flatten(tree).items():
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # Orbax stores a key as its integers.
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        found[path] = (tuple(leaf.shape), jnp.dtype(leaf.dtype).name)
    return found
