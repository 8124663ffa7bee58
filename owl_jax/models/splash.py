"""Splash attention: JAX's Pallas kernel for TPU, for causal rows with segments, and for ALiBi.

Letters: B batch, L positions, H heads, G key heads, K head width.

The kernel never writes the scores down. XLA cannot divide a kernel among devices, so on a mesh it
runs under `jax.shard_map`: each device has its rows and its heads.
"""

from __future__ import annotations

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

_LANES = 128  # a block is a multiple
_NOWHERE = -1  # the segment of positions that only fill the last block


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
    slopes: jax.Array | None = None,
    positions: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Causal attention in which positions see only positions of their own segment.

    Args:
      q: [B, L, H, K]. k, v: [B, G, L, K], H a multiple of G.
      query_segments, key_segments: int32[B, L], not negative.
      slopes: float32[H] and positions: int32[B, L] below 2**16, of the keys: ALiBi.
      interpret: runs the kernel's steps as XLA operations, slowly, where there is no TPU.

    Returns: [B, L, H, K] in the dtype of q. It and the scores' log-sum-exp, which the backward pass
    takes, are named `context` (models/remat.py). A position that sees nothing gives numbers.
    """
    # The kernel does not scale. XLA makes one rounding of this one and the rotation's.
    q = (q.astype(jnp.float32) / math.sqrt(q.shape[-1])).astype(q.dtype).swapaxes(1, 2)
    if slopes is not None and positions is not None:
        q, k = with_alibi(q, k, slopes, positions)
    run = partial(_run, interpret=interpret)
    if not jax.sharding.get_abstract_mesh().empty:
        rows = PartitionSpec(_mesh_axes("batch", len(q)))
        heads = PartitionSpec(*rows, _mesh_axes("act_heads", k.shape[1]))
        run = jax.shard_map(
            run,
            in_specs=(heads, heads, heads, rows, rows),
            out_specs=heads,
            check_vma=False,
        )
    return run(q, k, v, query_segments, key_segments).swapaxes(1, 2)


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


def _run(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
    interpret: bool,
) -> jax.Array:
    """What one device computes; [B, H, L, K] as the kernel has it."""
    _, H, L, K = q.shape
    # By the compiler's schedule for v5e, 2,048 positions of 128 bfloat16 take 48,900 instructions a
    # head and row, forward and backward, in blocks of 1,024, and 51,700 in blocks of 512; 61,700 if
    # dq has a kernel of its own, which computes the scores once more. Larger blocks do not fit the
    # 16 MB that a kernel may take; nor do these on a v4 if heads are wider, as ALiBi makes them.
    largest = 1024 if K * q.dtype.itemsize <= 256 else 512
    # The fewest equal blocks: a length that is no multiple of one is filled up as little as can be.
    number = math.ceil(L / largest)
    block = _LANES * math.ceil(L / number / _LANES)
    filled = number * block

    def fill(x: jax.Array, axis: int, value: int = 0) -> jax.Array:
        widths = [(0, filled - L if i == axis else 0) for i in range(x.ndim)]
        return jnp.pad(x, widths, constant_values=value)

    segments = kernels.SegmentIds(
        fill(query_segments, 1, _NOWHERE), fill(key_segments, 1, _NOWHERE)
    )
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([masks.CausalMask((filled, filled))] * H),
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=512 if block % 512 == 0 else block,
            block_q_dkv=block,
            block_kv_dkv=block,
            use_fused_bwd_kernel=True,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="context",
        interpret=interpret,
    )
    return jax.vmap(kernel)(fill(q, 2), fill(k, 2), fill(v, 2), segments)[:, :, :L]


def _mesh_axes(name: str, size: int) -> str | tuple[str, ...] | None:
    """Where a dimension with this logical name lies; None if that does not divide its size."""
    mesh = jax.sharding.get_abstract_mesh()
    (axes,) = nn.logical_to_mesh_axes((name,)) or (None,)
    each = (axes,) if isinstance(axes, str) else axes or ()
    return axes if size % math.prod(mesh.shape[axis] for axis in each) == 0 else None
