"""Interpolated positions against PyTorch's bicubic `interpolate`, which the originals call."""

import numpy as np
import pytest
import torch

from owl_jax.models.vision.positions import interpolated


@pytest.mark.parametrize(("found", "side"), [(16, 32), (32, 16), (3, 5), (24, 16)])
def test_positions_are_interpolated_as_in_pytorch(found, side):
    positions = np.random.default_rng(0).normal(size=(1 + found**2, 6)).astype(np.float32)
    grid = torch.tensor(positions[1:]).T.reshape(1, 6, found, found)
    expected = torch.nn.functional.interpolate(
        grid, size=(side, side), mode="bicubic", align_corners=False
    )
    ours = interpolated(positions, 1 + side**2)
    np.testing.assert_array_equal(ours[0], positions[0])
    np.testing.assert_allclose(ours[1:], expected.reshape(6, -1).T.numpy(), atol=2e-6)
