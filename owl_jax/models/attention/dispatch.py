"""Attention by name or by platform: which implementation computes a call.

Letters: B batch, L query tokens, S key slots, H heads, G key heads, K head width.

All implementations give the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

from owl_jax.errors import UserError
from owl_jax.models.attention.blockwise import BLOCK, blockwise
from owl_jax.models.attention.mask import AttentionMask
from owl_jax.models.attention.packed_kernels import attend_by
from owl_jax.models.attention.splash import splash
from owl_jax.models.attention.xla import with_cache, xla
from owl_jax.models.platform import platform
from owl_jax.models.remat import named

IMPLEMENTATIONS = ("auto", "xla", "splash", "blockwise", "cudnn")
_NVIDIA = ("gpu", "cuda")  # what JAX calls them
_ROW_KERNELS = {"splash": splash, "blockwise": blockwise}
_LEAST_SPLASH = 128  # positions; the kernel's least block, below which it mostly computes padding


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask | None = None,
    slopes: jax.Array | None = None,
    implementation: str = "xla",
    past: Mapping[str, jax.Array] | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K) + bias) v, the softmax in float32.

    Args:
      q: [B, L, H, K]. k, v: [B, G, S, K] with H a multiple of G (the layout of the cache).
      mask: None lets every query see every key (vision encoder, connector).
      slopes: float32[H], ALiBi's; they need a mask.
      implementation: one of IMPLEMENTATIONS. "splash" and "blockwise" compute what `choose` gives
        them, and the rest goes to "xla"; "cudnn" computes everything or raises.
      past: {"k", "v"}, each [B, G, S, K]: a cache that holds what is before the queries, whose own
        keys and values are k and v, of S = L. The mask is theirs among the cache's slots.
        Computed by XLA, whatever the implementation.

    Returns: [B, L, H, K] in the dtype of q, under the name `context` (models/remat.py).
    Raises UserError for an unknown implementation, and for ALiBi by cuDNN.
    """
    if implementation not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise UserError(f"attention {implementation!r}: expected one of {known}")
    if past is not None:
        assert mask is not None
        return with_cache(past, q, k, v, mask, slopes)
    chosen = choose(implementation, q, k, mask, slopes)
    if chosen in _ROW_KERNELS:
        assert mask is not None
        segments = mask.query_segments, mask.key_segments
        kernel = _ROW_KERNELS[chosen]
        return attend_by(kernel, q, k, v, *segments, slopes, mask.key_positions)
    return named("context", (_cudnn if chosen == "cudnn" else xla)(q, k, v, mask, slopes))


def choose(
    implementation: str,
    q: jax.Array,
    k: jax.Array,
    mask: AttentionMask | None,
    slopes: jax.Array | None,
) -> str:
    """Which computes this call if `implementation` is asked for: one of IMPLEMENTATIONS but "auto".

    "auto" is splash on a TPU, cuDNN on a GPU and blockwise on a CPU; each takes what it is good at,
    XLA the rest:
      splash     causal rows of at least 128 positions. Not the vision tower: 257 tokens of width
                 64 are 384 of width 128 to it, 4.5 times the work, to spare scores of 4 MB a
                 picture. Not a connector's 64 queries, nor a cache, where queries are few.
      cuDNN      16 bits, widths that are a multiple of 8 up to 128, no ALiBi; whole rows of even
                 length (under a mask it has no gradient of odd ones), or no mask.
      blockwise  causal rows of at least two blocks.
    """
    whole = mask is not None and mask.is_self_attention()
    _, L, _, K = q.shape
    if implementation == "splash" or (implementation == "auto" and platform() == "tpu"):
        return "splash" if whole and L >= _LEAST_SPLASH else "xla"
    if implementation == "blockwise" or (implementation == "auto" and platform() == "cpu"):
        return "blockwise" if whole and L >= 2 * BLOCK else "xla"
    if implementation == "auto" and platform() in _NVIDIA:
        suits = q.dtype.itemsize == 2 and K % 8 == 0 and K <= 128 and slopes is None
        return "cudnn" if suits and (mask is None or (whole and L % 2 == 0)) else "xla"
    return "xla" if implementation == "auto" else implementation


def _cudnn(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask | None,
    slopes: jax.Array | None,
) -> jax.Array:
    if slopes is not None:
        raise UserError('attention "cudnn" takes no bias: use "auto" or "xla" for BLOOM')
    if platform() not in _NVIDIA:
        raise UserError(f'attention "cudnn" runs on NVIDIA GPUs, not on a {platform()}: use "auto"')
    return jax.nn.dot_product_attention(
        q,
        k.swapaxes(1, 2),
        v.swapaxes(1, 2),
        mask=None if mask is None else mask.dense(),
        implementation="cudnn",
    )
