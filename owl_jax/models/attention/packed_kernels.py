"""Runs a kernel for packed sequences: scale, ALiBi as extra columns, sharding on a mesh.

Letters: B batch, L tokens, H heads, G key heads, K and V widths of keys and values.

A kernel computes causal attention within segments and nothing else: no scale, no bias, no mesh.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

MASKED = -1e30  # the score of a masked key; finite: a query without keys gives a mean, not NaN
PADDING_SEGMENT = -1  # the segment of the padding in a kernel's last block
# (q [B, H, L, K], k [B, G, L, K], v [B, G, L, V], segments of queries and keys int32[B, L]) ->
# [B, H, L, V]. ALiBi makes K wider than V.
Kernel = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def run_kernel(
    kernel: Kernel,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
    slopes: jax.Array | None = None,
    positions: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K) + bias) v over whole sequences.

    XLA cannot partition a kernel, so on a mesh the kernel runs under `jax.shard_map`, sharded by
    sequence and head.

    Args:
      q: [B, L, H, K]. k, v: [B, G, L, K], H a multiple of G.
      query_segments, key_segments: int32[B, L], not negative.
      slopes: float32[H], positions: int32[B, L] of the keys, below 2**16. Both add ALiBi.

    Returns: [B, L, H, K] in the dtype of q; finite even for queries without keys.
    """
    # XLA fuses this rounding with the rotary embedding's.
    q = (q.astype(jnp.float32) / math.sqrt(q.shape[-1])).astype(q.dtype).swapaxes(1, 2)
    if slopes is not None and positions is not None:
        q, k = with_alibi(q, k, slopes, positions)
    if not jax.sharding.get_abstract_mesh().empty:
        batch = PartitionSpec(mesh_axes("batch", len(q)))
        heads = PartitionSpec(*batch, mesh_axes("act_heads", k.shape[1]))
        kernel = jax.shard_map(
            kernel,
            in_specs=(heads, heads, heads, batch, batch),
            out_specs=heads,
            check_vma=False,
        )
    return kernel(q, k, v, query_segments, key_segments).swapaxes(1, 2)


def with_alibi(
    q: jax.Array, k: jax.Array, slopes: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """q and k with extra columns that add ALiBi's bias to their dot products.

    Softmax ignores a constant added to all keys of a query, so the bias reduces to slope times key
    position: a product, as in q k^T. Each factor is split into terms that bfloat16 represents
    exactly, three for the slope and two for the position; the kernel accumulates in float32. Six
    extra columns replace a bias of [B, H, L, L] and its gradient.

    q: [B, H, L, K], scaled. k: [B, G, L, K].
    """

    def append(x: jax.Array, columns: jax.Array) -> jax.Array:
        columns = jnp.broadcast_to(columns, (*x.shape[:-1], columns.shape[-1])).astype(x.dtype)
        return jnp.concatenate([x, columns], axis=-1)

    terms, rest = [], slopes
    for _ in range(3):
        # Not a cast: XLA may remove a cast to bfloat16 and back.
        terms.append(jax.lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7))
        rest = rest - terms[-1]
    fine = positions % 256
    keys = jnp.stack([positions - fine] * 3 + [fine] * 3, axis=-1)
    return append(q, jnp.stack(terms * 2, axis=-1)[:, None]), append(k, keys[:, None])


def pad_to(x: jax.Array, axis: int, length: int, value: int = 0) -> jax.Array:
    """`x` padded with `value` to `length` along `axis`."""
    widths = [(0, length - x.shape[i] if i == axis else 0) for i in range(x.ndim)]
    return jnp.pad(x, widths, constant_values=value)


def mesh_axes(name: str, size: int) -> str | tuple[str, ...] | None:
    """The mesh axes of a logical axis; None if they do not divide its size."""
    mesh = jax.sharding.get_abstract_mesh()
    (axes,) = nn.logical_to_mesh_axes((name,)) or (None,)
    names = (axes,) if isinstance(axes, str) else axes or ()
    return axes if size % math.prod(mesh.shape[axis] for axis in names) == 0 else None
