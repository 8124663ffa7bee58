"""The key-value cache, with literal arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.models.cache import with_room, write

LAYERS = [
    {"k": jnp.full((2, 1, 3, 4), 1.0 + i), "v": jnp.full((2, 1, 3, 4), -1.0 - i)} for i in (0, 1)
]
STACKED = jax.tree.map(lambda *layers: jnp.stack(layers), *LAYERS)


@pytest.mark.parametrize("cache", [STACKED, tuple(LAYERS)], ids=["stacked", "unrolled"])
def test_new_slots_are_zeros_at_the_end(cache):
    extended = with_room(cache, 2)
    assert jax.tree.structure(extended) == jax.tree.structure(cache)
    for old, new in zip(jax.tree.leaves(cache), jax.tree.leaves(extended), strict=True):
        np.testing.assert_array_equal(new[..., :3, :], old)
        np.testing.assert_array_equal(new[..., 3:, :], np.zeros((*old.shape[:-2], 2, 4)))


@pytest.mark.parametrize("cache", [STACKED, tuple(LAYERS)], ids=["stacked", "unrolled"])
def test_write_changes_only_its_slots(cache):
    """Two tokens from slot 1 on, in the cache's dtype."""
    narrow = jax.tree.map(lambda layers: layers.astype(jnp.bfloat16), cache)
    new = jax.tree.map(lambda layers: 10 * layers[..., :2, :], cache)
    written = write(narrow, new, jnp.asarray(1))
    for old, layers in zip(jax.tree.leaves(cache), jax.tree.leaves(written), strict=True):
        assert layers.dtype == jnp.bfloat16
        factors = np.asarray([1, 10, 10])[:, None]
        np.testing.assert_array_equal(layers, old * factors)
