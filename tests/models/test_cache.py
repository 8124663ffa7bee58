"""The key-value cache, with literal arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from owl_jax.models.cache import empty, update
from owl_jax.models.config import BloomConfig, LlamaConfig


def test_empty_has_a_place_for_each_layer_and_key_head():
    config = LlamaConfig(num_layers=3, num_heads=4, num_kv_heads=2, hidden_size=32)
    stacked = empty(config, 5, 7, jnp.bfloat16, scan_layers=True)
    unrolled = empty(config, 5, 7, jnp.bfloat16, scan_layers=False)
    assert jax.tree.map(jnp.shape, stacked) == {"k": (3, 5, 2, 7, 8), "v": (3, 5, 2, 7, 8)}
    assert jax.tree.map(jnp.shape, unrolled) == ({"k": (5, 2, 7, 8), "v": (5, 2, 7, 8)},) * 3
    assert {x.dtype for x in jax.tree.leaves((stacked, unrolled))} == {jnp.dtype("bfloat16")}
    bloom = BloomConfig(num_layers=1, num_heads=4, hidden_size=32)
    assert empty(bloom, 1, 2, jnp.float32, scan_layers=True)["k"].shape == (1, 1, 4, 2, 8)


def test_update_writes_at_the_slot_and_nowhere_else():
    layer = {"k": jnp.zeros((1, 1, 4, 1)), "v": jnp.full((1, 1, 4, 1), 9.0)}
    new = jnp.asarray([[[[1.0]], [[2.0]]]])  # [B, L, G, K]
    k, v, written = update(layer, new, -new, jnp.asarray(1))
    np.testing.assert_array_equal(k[0, 0, :, 0], [0, 1, 2, 0])
    np.testing.assert_array_equal(v[0, 0, :, 0], [9, -1, -2, 9])
    np.testing.assert_array_equal(written["k"], k)
    np.testing.assert_array_equal(written["v"], v)


def test_without_a_cache_keys_only_change_their_layout():
    k = jnp.arange(6.0).reshape(1, 3, 2, 1)
    keys, values, layer = update(None, k, -k, None)
    np.testing.assert_array_equal(keys[0, :, :, 0], [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(values, -keys)
    assert layer is None
