"""Splash attention: JAX's Pallas kernel for TPU, for causal rows with segments.

Letters: B batch, L positions, H heads, G key heads, K head width.

The kernel never writes the scores down.
"""

from __future__ import annotations

import math

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from owl_jax.models.attention.packed_kernels import NOWHERE, fill
from owl_jax.models.platform import platform

_LANES = 128  # a block is a multiple


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
) -> jax.Array:
    """A kernel of whole rows (packed_kernels.py). Anywhere but on a TPU it is interpreted, slowly.

    q: [B, H, L, K], scaled. k, v: [B, G, L, K]. Segments: int32[B, L], not negative.

    Returns: [B, H, L, K]. It and the scores' log-sum-exp, which the backward pass takes, are named
    `context` (models/remat.py).
    """
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
    segments = kernels.SegmentIds(
        fill(query_segments, 1, filled, NOWHERE), fill(key_segments, 1, filled, NOWHERE)
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
        interpret=platform() != "tpu",
    )
    return jax.vmap(kernel)(*(fill(x, 2, filled) for x in (q, k, v)), segments)[:, :, :L]
