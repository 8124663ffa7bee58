"""Splash attention: JAX's Pallas kernel for TPU, for packed causal sequences.

Letters: B batch, L tokens, H heads, G key heads, K head width.

The kernel never materialises the scores.
"""

from __future__ import annotations

import math

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from owl_jax.models.attention.packed_kernels import PADDING_SEGMENT, pad_to
from owl_jax.models.platform import platform

_LANES = 128  # block sizes are multiples of it


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array,
    key_segments: jax.Array,
    window: int = 0,
) -> jax.Array:
    """A kernel for packed sequences (packed_kernels.py). Interpreted, hence slow, except on a TPU.

    q: [B, H, L, K], scaled. k, v: [B, G, L, K]. Segments: int32[B, L], not negative.
    window: a query attends to this many keys, its own included; 0: to all.

    Returns: [B, H, L, K]. The result and the scores' log-sum-exp, which the backward pass uses, are
    named `context` (models/remat.py).
    """
    _, H, L, K = q.shape
    # In the compiler's schedule for v5e, 2,048 tokens of width 128 in bfloat16 take 48,900
    # instructions per head and sequence, forward and backward, in blocks of 1,024; 51,700 in blocks
    # of 512; 61,700 if dq has its own kernel, which recomputes the scores. Larger blocks
    # exceed a kernel's limit of 16 MB, as do blocks of 1,024 on a v4 if ALiBi widens the heads.
    max_block = 1024 if K * q.dtype.itemsize <= 256 else 512
    # The fewest blocks of equal size, for the least padding.
    num_blocks = math.ceil(L / max_block)
    block = _LANES * math.ceil(L / num_blocks / _LANES)
    padded = num_blocks * block
    segments = kernels.SegmentIds(
        pad_to(query_segments, 1, padded, PADDING_SEGMENT),
        pad_to(key_segments, 1, padded, PADDING_SEGMENT),
    )
    mask: masks.Mask = masks.CausalMask((padded, padded))
    if window:
        mask = masks.LocalMask((padded, padded), (window - 1, 0), 0)
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * H),
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
    return jax.vmap(kernel)(*(pad_to(x, 2, padded) for x in (q, k, v)), segments)[:, :, :L]
