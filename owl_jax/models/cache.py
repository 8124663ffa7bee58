"""The key-value cache of a decoder.

Letters: B batch, L new positions, S slots, G key heads, K head width.

Layout [B, G, S, K] per layer: decode reads it as it lies (on CPU 1.7 times faster than
[B, S, G, K]).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from owl_jax.models.config import LanguageConfig

LayerCache = dict[str, jax.Array]  # "k" and "v", each [B, G, S, K]
Cache = Any  # LayerCache stacked on axis 0 (scanned layers), or a tuple of them (unrolled)


def empty(config: LanguageConfig, batch: int, slots: int, dtype: Any, scan_layers: bool) -> Cache:
    """A cache of zeros for `batch` rows of `slots` positions."""

    def zeros(*stack: int) -> LayerCache:
        shape = (*stack, batch, config.num_kv_heads, slots, config.head_dim)
        return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}

    if scan_layers:
        return zeros(config.num_layers)
    return tuple(zeros() for _ in range(config.num_layers))


def update(
    layer: LayerCache | None, k: jax.Array, v: jax.Array, start: Any
) -> tuple[jax.Array, jax.Array, LayerCache | None]:
    """Writes k, v [B, L, G, K] at slot `start`; returns what to attend to, [B, G, S, K], and cache.

    Without a cache (training) that is k and v themselves, in the cache's layout; `start` is None.
    """
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    if layer is None:
        return k, v, None
    write = jax.lax.dynamic_update_slice_in_dim
    k = write(layer["k"], k.astype(layer["k"].dtype), start, axis=2)
    v = write(layer["v"], v.astype(layer["v"].dtype), start, axis=2)
    return k, v, {"k": k, "v": v}
