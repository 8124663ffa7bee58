"""Attention: chooses an implementation by name or platform. All compute the same function.

Letters: B batch, L query tokens, S key slots, H heads, G key heads, K head width.
"""

from __future__ import annotations

from functools import partial

import jax

from owl_jax.errors import UserError
from owl_jax.models.attention.blockwise import BLOCK, blockwise
from owl_jax.models.attention.mask import AttentionMask
from owl_jax.models.attention.packed_kernels import run_kernel
from owl_jax.models.attention.ragged_decode import ragged_decode, suits
from owl_jax.models.attention.splash import splash
from owl_jax.models.attention.xla import attend_with_cache, xla
from owl_jax.models.cache import Past
from owl_jax.models.platform import platform
from owl_jax.models.remat import named

IMPLEMENTATIONS = ("auto", "xla", "splash", "blockwise", "cudnn")
_NVIDIA = ("gpu", "cuda")  # JAX's platform names
_PACKED_KERNELS = {"splash": splash, "blockwise": blockwise}
_MIN_SPLASH_LENGTH = 128  # the kernel's smallest block


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask | None = None,
    slopes: jax.Array | None = None,
    implementation: str = "xla",
    past: Past | None = None,
    window: int = 0,
) -> jax.Array:
    """softmax(q k^T / sqrt(K) + bias) v, the softmax in float32.

    Args:
      q: [B, L, H, K]. k, v: [B, G, S, K] with H a multiple of G (the layout of the cache).
      mask: None lets every query attend to every key (vision encoder, connector).
      slopes: float32[H], for ALiBi; requires a mask.
      implementation: one of IMPLEMENTATIONS. "splash" and "blockwise" fall back to "xla" as
        `choose` describes; "cudnn" never falls back but raises.
      past: a layer of the cache, with the tokens before the queries; mask.past says which. Then k
        and v belong to the queries' own tokens. On a TPU, "auto" and "splash" compute one token per
        row with the ragged decode kernel where that suits; else "xla" computes it.
      window: a query attends to this many positions, its own included; 0: to its whole segment.
        Requires a mask. For sequences longer than the window, "xla" replaces "blockwise".

    Returns: [B, L, H, K] in the dtype of q, named `context` (models/remat.py).
    Raises UserError for an unknown implementation, and for ALiBi with cuDNN.
    """
    if implementation not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise UserError(f"attention {implementation!r}: expected one of {known}")
    if past is not None:
        assert mask is not None and mask.past is not None
        on_tpu = implementation in ("auto", "splash") and platform() == "tpu"
        is_ragged = on_tpu and suits(past, q, mask)
        function = ragged_decode if is_ragged else attend_with_cache
        return function(past, q, k, v, mask, slopes, window)
    if window >= q.shape[1]:
        window = 0  # no token is that far away
    chosen = choose(implementation, q, k, mask, slopes, window)
    if chosen in _PACKED_KERNELS:
        assert mask is not None
        segments = mask.query_segments, mask.key_segments
        kernel = _PACKED_KERNELS[chosen]
        if window:
            kernel = partial(splash, window=window)
        return run_kernel(kernel, q, k, v, *segments, slopes, mask.key_positions)
    return named("context", (_cudnn if chosen == "cudnn" else xla)(q, k, v, mask, slopes, window))


def choose(
    implementation: str,
    q: jax.Array,
    k: jax.Array,
    mask: AttentionMask | None,
    slopes: jax.Array | None,
    window: int = 0,
) -> str:
    """Resolves "auto", and replaces splash and blockwise by "xla" for calls that do not suit them.

    "auto" is splash on TPU, cuDNN on GPU and blockwise on CPU. Each computes the calls that it is
    fast at; XLA computes the others:
      splash     causal sequences of at least 128 tokens. Not the vision tower: padding its 257
                 tokens of width 64 to 384 of width 128 takes 4.5 times the work and saves only 4 MB
                 of scores per image. Not a few queries, such as the connector's 64 or decoding with
                 a cache.
      cuDNN      16-bit dtypes, head widths that are a multiple of 8 up to 128, no ALiBi; either no
                 mask, or whole sequences of even length (with a mask it has no gradient for odd
                 lengths).
      blockwise  causal sequences of at least two blocks, no window.
    """
    whole = mask is not None
    _, L, _, K = q.shape
    if implementation == "splash" or (implementation == "auto" and platform() == "tpu"):
        return "splash" if whole and L >= _MIN_SPLASH_LENGTH else "xla"
    if implementation == "blockwise" or (implementation == "auto" and platform() == "cpu"):
        return "blockwise" if whole and L >= 2 * BLOCK and not window else "xla"
    if implementation == "auto" and platform() in _NVIDIA:
        supported = q.dtype.itemsize == 2 and K % 8 == 0 and K <= 128 and slopes is None
        return "cudnn" if supported and (mask is None or (whole and L % 2 == 0)) else "xla"
    return "xla" if implementation == "auto" else implementation


def _cudnn(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask | None,
    slopes: jax.Array | None,
    window: int,
) -> jax.Array:
    if slopes is not None:
        raise UserError('attention "cudnn" does not support ALiBi: use "auto" or "xla" for BLOOM')
    if platform() not in _NVIDIA:
        raise UserError(f'attention "cudnn" runs on NVIDIA GPUs, not on a {platform()}: use "auto"')
    return jax.nn.dot_product_attention(
        q,
        k.swapaxes(1, 2),
        v.swapaxes(1, 2),
        mask=None if mask is None else mask.dense(window),
        implementation="cudnn",
    )
