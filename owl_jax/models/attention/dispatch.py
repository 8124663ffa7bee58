"""Attention: who may see whom, and which implementation computes it.

Letters: B batch, L query positions, S key slots, H heads, G key heads, K head width.

`Placement` says where each query and key stands, and so who sees whom, without building an L x S
array; each implementation makes of it what it needs. All implementations give the same numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct
from jax.nn import logsumexp

from owl_jax.errors import UserError
from owl_jax.models.attention.blockwise import BLOCK, blockwise
from owl_jax.models.attention.packed_kernels import MASKED, attend_by
from owl_jax.models.attention.splash import splash
from owl_jax.models.platform import platform
from owl_jax.models.remat import named

IMPLEMENTATIONS = ("auto", "xla", "splash", "blockwise", "cudnn")
_NVIDIA = ("gpu", "cuda")  # what JAX calls them
_ROW_KERNELS = {"splash": splash, "blockwise": blockwise}
_LEAST_SPLASH = 128  # positions; the kernel's least block, below which it mostly computes padding
# The TPU's compiler multiplies a single query element by element. In as many copies as the matrix
# unit takes at a time anyway, it goes there, by its estimate in two fifths of the time.
_COPIES = 8


@struct.dataclass
class Placement:
    """Where queries and keys stand. A query sees keys of its segment that are not after it.

    query_slots:     int32[L], successive indices in the row or cache; "after" is a matter of slots.
    query_positions: int32[B, L], for RoPE and ALiBi; each packed conversation counts from 0.
    query_segments:  int32[B, L]; conversations packed in a row have different numbers.
    key_positions:   int32[B, S]; key s is in slot s.
    key_segments:    int32[B, S]; a number that no query has hides the key.
    """

    query_slots: jax.Array
    query_positions: jax.Array
    query_segments: jax.Array
    key_positions: jax.Array
    key_segments: jax.Array

    def mask(self) -> jax.Array:
        """bool[B, 1, L, S]."""
        causal = jnp.arange(self.key_segments.shape[1]) <= self.query_slots[:, None]
        same = self.query_segments[:, :, None] == self.key_segments[:, None, :]
        return (causal & same)[:, None]

    def is_whole_rows(self) -> bool:
        """Whether the queries are all slots there are, in order: no cache, or the whole of it."""
        return self.query_segments.shape == self.key_segments.shape


def whole_rows(positions: jax.Array, segment_ids: jax.Array) -> Placement:
    """Placement of rows that attend to themselves; int32[B, L] each."""
    slots = jnp.arange(positions.shape[1])
    return Placement(slots, positions, segment_ids, positions, segment_ids)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    placement: Placement | None = None,
    slopes: jax.Array | None = None,
    implementation: str = "xla",
    past: Mapping[str, jax.Array] | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K) + bias) v, the softmax in float32.

    Args:
      q: [B, L, H, K]. k, v: [B, G, S, K] with H a multiple of G (the layout of the cache).
      placement: None lets every query see every key (vision encoder, connector).
      slopes: float32[H], ALiBi's; they need a placement.
      implementation: one of IMPLEMENTATIONS. "splash" and "blockwise" compute what `choose` gives
        them, and the rest goes to "xla"; "cudnn" computes everything or raises.
      past: {"k", "v"}, each [B, G, S, K]: a cache that holds what is before the queries, whose own
        keys and values are k and v, of S = L. The placement is theirs among the cache's slots.
        Computed by XLA, whatever the implementation.

    Returns: [B, L, H, K] in the dtype of q, under the name `context` (models/remat.py).
    Raises UserError for an unknown implementation, and for ALiBi by cuDNN.
    """
    if implementation not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise UserError(f"attention {implementation!r}: expected one of {known}")
    if past is not None:
        assert placement is not None
        return _after(past, q, k, v, placement, slopes)
    chosen = choose(implementation, q, k, placement, slopes)
    if chosen in _ROW_KERNELS:
        assert placement is not None
        segments = placement.query_segments, placement.key_segments
        kernel = _ROW_KERNELS[chosen]
        return attend_by(kernel, q, k, v, *segments, slopes, placement.key_positions)
    return named("context", (_cudnn if chosen == "cudnn" else _xla)(q, k, v, placement, slopes))


def choose(
    implementation: str,
    q: jax.Array,
    k: jax.Array,
    placement: Placement | None,
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
    whole = placement is not None and placement.is_whole_rows()
    _, L, _, K = q.shape
    if implementation == "splash" or (implementation == "auto" and platform() == "tpu"):
        return "splash" if whole and L >= _LEAST_SPLASH else "xla"
    if implementation == "blockwise" or (implementation == "auto" and platform() == "cpu"):
        return "blockwise" if whole and L >= 2 * BLOCK else "xla"
    if implementation == "auto" and platform() in _NVIDIA:
        suits = q.dtype.itemsize == 2 and K % 8 == 0 and K <= 128 and slopes is None
        return "cudnn" if suits and (placement is None or (whole and L % 2 == 0)) else "xla"
    return "xla" if implementation == "auto" else implementation


def alibi_bias(slopes: jax.Array, placement: Placement) -> jax.Array:
    """float32[B, H, L, S]: slope times (key position - query position) (arXiv 2108.12409)."""
    distance = placement.key_positions[:, None, :] - placement.query_positions[:, :, None]
    return slopes[:, None, None] * distance[:, None].astype(jnp.float32)


def _cudnn(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    placement: Placement | None,
    slopes: jax.Array | None,
) -> jax.Array:
    if slopes is not None:
        raise UserError('attention "cudnn" takes no bias: use "auto" or "xla" for BLOOM')
    if platform() not in _NVIDIA:
        raise UserError(f'attention "cudnn" runs on NVIDIA GPUs, not on a {platform()}: use "auto"')
    mask = None if placement is None else placement.mask()
    return jax.nn.dot_product_attention(
        q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask=mask, implementation="cudnn"
    )


def _xla(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    placement: Placement | None,
    slopes: jax.Array | None,
) -> jax.Array:
    if platform() == "cpu":
        return _divided_last(q, k, v, placement, slopes)
    return _weighed(jax.nn.softmax(_scores(q, k, placement, slopes), axis=-1), v)


def _divided_last(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    placement: Placement | None,
    slopes: jax.Array | None,
) -> jax.Array:
    """The form for a CPU: the sum of a query's weights divides what they weigh, which is less.

    Heads stand before positions in both products: for any other order a CPU's compiler writes down
    transposed scores, or keys.
    """
    B, L, H, K = q.shape
    G, S = k.shape[1:3]
    rows = q.swapaxes(1, 2).reshape(B, G, -1, K)
    scores = jnp.einsum("bgmk,bgsk->bgms", rows, k, preferred_element_type=jnp.float32)
    scores = _masked(scores.reshape(B, H, L, S) / math.sqrt(K), placement, slopes)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(v.dtype).reshape(B, G, -1, S)
    # By this name, so that the gradient of the quotient does not compute it again.
    weighed = named("context", jnp.einsum("bgms,bgsk->bgmk", weights, v))
    return (weighed.reshape(B, H, L, K) / total).astype(v.dtype).swapaxes(1, 2)


def _after(
    past: Mapping[str, jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    placement: Placement,
    slopes: jax.Array | None,
) -> jax.Array:
    """One softmax over the cache's keys and the queries' own; joining them would copy the cache."""
    start, length = placement.query_slots[0], q.shape[1]
    before = dataclasses.replace(placement, query_slots=jnp.full(length, start - 1))
    among = whole_rows(placement.query_positions, placement.query_segments)
    copies = _COPIES if length == 1 and platform() == "tpu" else 1
    old = _scores(jnp.repeat(q, copies, axis=1), past["k"], before, slopes)[:, :, :length]
    own = _scores(q, k, among, slopes)
    total = jnp.logaddexp(logsumexp(old, -1, keepdims=True), logsumexp(own, -1, keepdims=True))
    old, own = jnp.exp(old - total), jnp.exp(own - total)
    result = _weighed(jnp.repeat(old, copies, axis=2), past["v"])[:, :length] + _weighed(own, v)
    return named("context", result)


def _scores(
    q: jax.Array, k: jax.Array, placement: Placement | None, slopes: jax.Array | None
) -> jax.Array:
    """float32[B, H, L, S], masked."""
    B, L, H, K = q.shape
    G, S = k.shape[1:3]
    grouped = q.reshape(B, L, G, H // G, K)
    scores = jnp.einsum("blgrk,bgsk->bgrls", grouped, k, preferred_element_type=jnp.float32)
    return _masked(scores.reshape(B, H, L, S) / math.sqrt(K), placement, slopes)


def _masked(scores: jax.Array, placement: Placement | None, slopes: jax.Array | None) -> jax.Array:
    """Scores [B, H, L, S] with ALiBi's bias, and out of reach where a key is not seen."""
    if placement is None:
        return scores
    if slopes is not None:
        scores += alibi_bias(slopes, placement)
    return jnp.where(placement.mask(), scores, MASKED)


def _weighed(weights: jax.Array, v: jax.Array) -> jax.Array:
    """Values [B, G, S, K] by weights [B, H, L, S]: [B, L, H, K]."""
    B, H, L, S = weights.shape
    G, K = v.shape[1], v.shape[3]
    grouped = weights.astype(v.dtype).reshape(B, G, H // G, L, S)
    return jnp.einsum("bgrls,bgsk->blgrk", grouped, v).reshape(B, L, H, K)
