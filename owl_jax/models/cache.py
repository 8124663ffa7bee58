"""The key-value cache of a decoder.

Letters: B rows, S slots of a row, L new tokens, G key heads, K head width.

The token at position p of a row is in slot p. Decoding reads the layout [B, G, S, K] without a
transpose; on CPU that is 1.7 times faster than [B, S, G, K]. Layers only read the cache and return
the keys and values of their new tokens; the functions here store those of all layers after the last
one. A scan that wrote them layer by layer would copy the cache in every step, or once per call to
change its layout.

Slots after a row's last token keep what was there. Attention reads some of them with a weight of
zero, and zero times NaN is NaN, so only finite numbers are written.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from owl_jax.models.platform import platform
from owl_jax.models.write_columns import suits, write_columns

# "k" and "v", each [B, G, S, K]; in int8 also "k_scale" and "v_scale", each [B, G, S, 1].
LayerCache = dict[str, jax.Array]
Cache = Any  # LayerCache stacked on axis 0 (scanned layers), or a tuple of them (unrolled)

# Logical axes of an unrolled leaf; a stacked one has "layers" before them.
AXES = ("batch", "act_heads", None, None)


@struct.dataclass
class Past:
    """What one layer reads of the cache. layer: its index; None for an unrolled cache."""

    cache: Cache
    layer: jax.Array | None

    def read(self) -> LayerCache:
        """The keys and values of the layer."""
        if self.layer is None:
            return self.cache
        take = jax.lax.dynamic_index_in_dim
        return {name: take(x, self.layer, keepdims=False) for name, x in self.cache.items()}


def past_of(cache: Cache | None, layer: int | jax.Array | None) -> Past | None:
    """Layer `layer` of a cache, stacked or unrolled; None without a cache."""
    if cache is None:
        return None
    if isinstance(cache, tuple):
        assert isinstance(layer, int)
        return Past(cache[layer], None)
    return Past(cache, jnp.asarray(layer))


def empty_cache(new: Cache, num_rows: int, num_slots: int) -> Cache:
    """Zeros for `num_rows` rows of `num_slots` slots. new: keys and values of any tokens, or their
    shapes."""

    def zeros(leaf: Any) -> jax.Array:
        *layers, _, G, _, K = leaf.shape
        return jnp.zeros((*layers, num_rows, G, num_slots, K), leaf.dtype)

    return jax.tree.map(zeros, new)


def write_tokens(cache: Cache, new: Cache, rows: jax.Array | None, slots: jax.Array) -> Cache:
    """Writes one token of each of W rows; new: [..., W, G, 1, K]; rows, slots: int32[W].

    rows: None: all rows, in order.

    The scatter is in place on all platforms, on a TPU if K is a multiple of 128; for others there
    is a kernel. dynamic_update_slice under vmap would copy the cache.
    """
    new = _finite(new)
    if platform() == "tpu" and rows is None and isinstance(cache, dict):
        narrow = {name: leaf for name, leaf in cache.items() if suits(leaf)}
        if narrow:
            others = {name: leaf for name, leaf in cache.items() if name not in narrow}
            rest = {name: new[name] for name in others}
            return write_columns(narrow, new, slots) | write_tokens(others, rest, rows, slots)
    if rows is None:
        rows = jnp.arange(len(slots))

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        at: tuple[jax.Array, ...] = rows[:, None], jnp.arange(old.shape[-3]), slots[:, None]
        if old.ndim > 4:
            # An update window over layers would make XLA on a TPU copy the cache to a layout in
            # which a window is contiguous.
            at = (jnp.arange(len(old))[:, None, None], *at)
        new = new[..., 0, :].astype(old.dtype)
        return old.at[at].set(new, unique_indices=True, mode="promise_in_bounds")

    return jax.tree.map(put, cache, new)


def write_row(cache: Cache, new: Cache, row: jax.Array, start: jax.Array) -> Cache:
    """Writes L tokens of one row from slot `start` on; new: [..., 1, G, L, K], start + L <= S."""

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        at: list[Any] = [*[0] * (old.ndim - 4), row, 0, start, 0]
        return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), at)

    return jax.tree.map(put, cache, _finite(new))


def write_all(cache: Cache, new: Cache) -> Cache:
    """Writes L tokens of each row into its first slots; new: [..., B, G, L, K]."""

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), [0] * old.ndim)

    return jax.tree.map(put, cache, _finite(new))


def copy_row(cache: Cache, source: jax.Array, target: jax.Array) -> Cache:
    """Copies all slots of row `source` to row `target`."""

    def copy(layers: jax.Array) -> jax.Array:
        axis = layers.ndim - 4
        row = jax.lax.dynamic_slice_in_dim(layers, source, 1, axis)
        return jax.lax.dynamic_update_slice_in_dim(layers, row, target, axis)

    return jax.tree.map(copy, cache)


def _finite(new: Cache) -> Cache:
    """Zeros in place of infinities and NaN."""
    return jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0), new)
