"""Positions for another number of patches; tests/parity compares them with PyTorch's."""

import numpy as np
import pytest

from owl_jax.models.vision.positions import interpolated


def test_the_same_size_changes_nothing():
    positions = np.random.default_rng(0).normal(size=(1 + 9, 4)).astype(np.float32)
    np.testing.assert_array_equal(interpolated(positions, 10), positions)


@pytest.mark.parametrize("prefix", [0, 1])
def test_a_slope_stays_a_slope_and_the_class_token_itself(prefix):
    rows, columns = np.divmod(np.arange(64), 8)
    grid = np.stack([rows, columns, np.ones(64)], axis=1).astype(np.float32)
    positions = np.concatenate([np.full((prefix, 3), 7, np.float32), grid])
    found = interpolated(positions, prefix + 256)
    np.testing.assert_array_equal(found[:prefix], positions[:prefix])
    inner = found[prefix:].reshape(16, 16, 3)[4:12, 4:12]
    slope = (np.arange(4, 12) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(inner[..., 0], np.broadcast_to(slope[:, None], (8, 8)), atol=0.1)
    np.testing.assert_allclose(inner[..., 1], np.broadcast_to(slope, (8, 8)), atol=0.1)
    np.testing.assert_allclose(found[prefix:, 2], 1, atol=1e-6)


@pytest.mark.parametrize(("found", "tokens"), [(9, 17), (10, 16), (12, 16)])
def test_a_grid_that_is_no_square_or_lacks_the_class_token_is_refused(found, tokens):
    with pytest.raises(ValueError, match=f"{found} positions do not fit {tokens} tokens"):
        interpolated(np.zeros((found, 4), np.float32), tokens)
