"""What kernels of whole rows have in common: the scale, ALiBi as columns, rows and heads of a mesh.

Letters: B batch, L positions, H heads, G key heads, K and V widths of keys and values.

A kernel computes causal attention in which positions see only positions of their own segment. It
knows no scale, no bias and no mesh.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

MASKED = -1e30  # a score; finite: a row that sees nothing gives a mean, not NaN
NOWHERE = -1  # the segment of positions that only fill a kernel's last block
# (q [B, H, L, K], k [B, G, L, K], v [B, G, L, V], segments of queries and keys int32[B, L]) ->
# [B, H, L, V]. ALiBi makes K wider than V.
Kernel = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def attend_by(
    kernel: Kernel,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
    slopes: jax.Array | None = None,
    positions: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K) + bias) v of whole rows.

    XLA cannot divide a kernel among devices, so on a mesh it runs under `jax.shard_map`: each
    device has its rows and its heads.

    Args:
      q: [B, L, H, K]. k, v: [B, G, L, K], H a multiple of G.
      query_segments, key_segments: int32[B, L], not negative.
      slopes: float32[H] and positions: int32[B, L] below 2**16, of the keys: ALiBi.

    Returns: [B, L, H, K] in the dtype of q. A position that sees nothing gives numbers.
    """
    # XLA makes one rounding of this one and the rotation's.
    q = (q.astype(jnp.float32) / math.sqrt(q.shape[-1])).astype(q.dtype).swapaxes(1, 2)
    if slopes is not None and positions is not None:
        q, k = with_alibi(q, k, slopes, positions)
    if not jax.sharding.get_abstract_mesh().empty:
        rows = PartitionSpec(_mesh_axes("batch", len(q)))
        heads = PartitionSpec(*rows, _mesh_axes("act_heads", k.shape[1]))
        kernel = jax.shard_map(
            kernel,
            in_specs=(heads, heads, heads, rows, rows),
            out_specs=heads,
            check_vma=False,
        )
    return kernel(q, k, v, query_segments, key_segments).swapaxes(1, 2)


def with_alibi(
    q: jax.Array, k: jax.Array, slopes: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """q and k, widened so that their products contain ALiBi's bias.

    Softmax does not see what all keys of a query have in common, so that of slope times distance
    only slope times key position matters: a product, like those of q and k. Both factors are cut
    into parts that bfloat16 holds exactly, three of the slope and two of the position; the kernel
    adds up in float32. That is K + 6 columns instead of a bias of [B, H, L, L] and its gradient.

    q: [B, H, L, K], scaled. k: [B, G, L, K].
    """

    def widened(x: jax.Array, columns: jax.Array) -> jax.Array:
        columns = jnp.broadcast_to(columns, (*x.shape[:-1], columns.shape[-1])).astype(x.dtype)
        return jnp.concatenate([x, columns], axis=-1)

    parts, rest = [], slopes
    for _ in range(3):
        # reduce_precision: XLA may drop a cast to bfloat16 and back as needless.
        parts.append(jax.lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7))
        rest = rest - parts[-1]
    fine = positions % 256
    keys = jnp.stack([positions - fine] * 3 + [fine] * 3, axis=-1)
    return widened(q, jnp.stack(parts * 2, axis=-1)[:, None]), widened(k, keys[:, None])


def fill(x: jax.Array, axis: int, length: int, value: int = 0) -> jax.Array:
    """`x` with `value` after its end, as long as a kernel's blocks."""
    widths = [(0, length - x.shape[i] if i == axis else 0) for i in range(x.ndim)]
    return jnp.pad(x, widths, constant_values=value)


def _mesh_axes(name: str, size: int) -> str | tuple[str, ...] | None:
    """Where a dimension with this logical name lies; None if that does not divide its size."""
    mesh = jax.sharding.get_abstract_mesh()
    (axes,) = nn.logical_to_mesh_axes((name,)) or (None,)
    each = (axes,) if isinstance(axes, str) else axes or ()
    return axes if size % math.prod(mesh.shape[axis] for axis in each) == 0 else None
