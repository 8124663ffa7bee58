"""Keys and values in int8, with a scale for each token and key head.

Letters: B rows, G key heads, L tokens, S slots, K head width.

A layer quantises its tokens before anything attends to them. So a query sees the same numbers
whether a token is in the cache or was read together with the query, and answers do not depend on
how a prompt was cut into pieces, or on how much of it was in the cache.

Scales are applied to what is smaller than the cache: those of keys to scores, those of values to
weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from owl_jax.models.compute import Compute

_MAX = 127


def cached_form(
    k: jax.Array, v: jax.Array, cache_dtype: str
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """The keys and values to attend to, and the leaves to store in the cache.

    k, v: [B, G, L, K]. cache_dtype: "auto" or "int8" (models/compute.py).

    Returns: (k, v, {"k", "v"}) unchanged for "auto". For "int8": k and v as the cache gives them,
    and {"k", "v": int8[B, G, L, K], "k_scale", "v_scale": float32[B, G, L, 1]}.
    """
    if cache_dtype == "auto":
        return k, v, {"k": k, "v": v}
    stored = {}
    for name, x in (("k", k), ("v", v)):
        stored[name], stored[scale_of(name)] = quantize(x)
    k, v = (
        (stored[name] * stored[scale_of(name)]).astype(x.dtype) for name, x in (("k", k), ("v", v))
    )
    return k, v, stored


def quantize(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[..., K] -> (int8[..., K], float32[..., 1]): x is about their product."""
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis=-1, keepdims=True) / _MAX
    return jnp.round(x / jnp.where(scale > 0, scale, 1)).astype(jnp.int8), scale


def bytes_of_a_head(head_width: int, compute: Compute) -> int:
    """Bytes that the keys, or the values, of one token and key head take in the cache."""
    if compute.cache_dtype == "int8":
        return head_width + jnp.dtype(jnp.float32).itemsize
    return head_width * jnp.dtype(compute.dtype).itemsize


def scale_of(name: str) -> str:
    """The name of the scales of "k" or "v"."""
    return f"{name}_scale"


def scaled(scores: jax.Array, cached: Mapping[str, jax.Array], name: str) -> jax.Array:
    """Scores or weights [B, H, L, S] of a cache times the scales of its keys or values, "k" or "v".

    cached: leaves [B, G, S, ...], where H is a multiple of G. Both may lack the axis B, or L. A
    cache without scales leaves the scores as they are.
    """
    scale = cached.get(scale_of(name))
    if scale is None:
        return scores
    *outer, S, _ = scale.shape
    by_group = scores.reshape(*outer, -1, S) * scale.swapaxes(-1, -2)
    return by_group.reshape(scores.shape)
