"""Each layout with literal arrays: the shape in the source, read, and written back."""

import numpy as np
import pytest

from owl_jax.checkpoint.layout import DepthwiseConvolution, Flat, Linear, PatchConvolution, Same

CASES = {
    "same": (Same(), [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
    "leading axes": (Same(2), [[[1, 2]]], [1, 2]),
    "flat bias of two heads": (Flat(), [1, 2, 3, 4], [[1, 2], [3, 4]]),
    # y = W x with W [out 2, in 3].
    "linear": (Linear(), [[1, 2, 3], [4, 5, 6]], [[1, 4], [2, 5], [3, 6]]),
    # [out 4, in 1] to two heads of two.
    "linear to heads": (Linear(), [[1], [2], [3], [4]], [[[1, 2], [3, 4]]]),
    # [out 1, in 4] from two heads of two.
    "linear from heads": (Linear(2), [[1, 2, 3, 4]], [[[1], [2]], [[3], [4]]]),
    "convolution of one point": (Linear(trailing=2), [[[[1]], [[2]]]], [[1], [2]]),
    # One output, three channels of 2 x 2 pixels: ours goes pixel by pixel, channels innermost.
    "patches": (
        PatchConvolution(),
        [[[[1, 2], [3, 4]], [[10, 20], [30, 40]], [[100, 200], [300, 400]]]],
        [[1], [10], [100], [2], [20], [200], [3], [30], [300], [4], [40], [400]],
    ),
    # Two channels over three frames.
    "depthwise": (
        DepthwiseConvolution(),
        [[[[[1]], [[2]], [[3]]]], [[[[4]], [[5]], [[6]]]]],
        [[1, 4], [2, 5], [3, 6]],
    ),
}


@pytest.mark.parametrize(("layout", "source", "ours"), CASES.values(), ids=CASES.keys())
def test_layout(layout, source, ours):
    source, ours = np.array(source), np.array(ours)
    assert layout.source_shape(ours.shape) == source.shape
    np.testing.assert_array_equal(layout.read(source, ours.shape), ours)
    np.testing.assert_array_equal(layout.write(ours), source)
