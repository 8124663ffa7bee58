"""Each transform with literal arrays: source shape, reading, writing, reading slices."""

import math

import numpy as np
import pytest

from owl_jax.models.transforms import (
    DepthwiseConvolution,
    Flat,
    Linear,
    PatchConvolution,
    Same,
    read_part,
)

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
    # One output, three channels of 2 x 2 pixels: ours is pixel by pixel, channels innermost.
    "patches": (
        PatchConvolution(),
        [[[[1, 2], [3, 4]], [[10, 20], [30, 40]], [[100, 200], [300, 400]]]],
        [[1], [10], [100], [2], [20], [200], [3], [30], [300], [4], [40], [400]],
    ),
    # Two channels over three frames.
    "depthwise over time": (
        DepthwiseConvolution(trailing=2),
        [[[[[1]], [[2]], [[3]]]], [[[[4]], [[5]], [[6]]]]],
        [[1, 4], [2, 5], [3, 6]],
    ),
    # Two channels, two rows of three.
    "depthwise": (
        DepthwiseConvolution(),
        [[[[1, 2, 3], [4, 5, 6]]], [[[10, 20, 30], [40, 50, 60]]]],
        [[[1, 10], [2, 20], [3, 30]], [[4, 40], [5, 50], [6, 60]]],
    ),
}


@pytest.mark.parametrize(("transform", "source", "ours"), CASES.values(), ids=CASES.keys())
def test_transform(transform, source, ours):
    source, ours = np.array(source), np.array(ours)
    assert transform.source_shape(ours.shape) == source.shape
    np.testing.assert_array_equal(transform.read(source, ours.shape), ours)
    np.testing.assert_array_equal(transform.write(ours), source)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_long_matrices_of_any_dtype_are_transposed(dtype):
    """More rows than one block, and not a multiple of it."""
    source = np.random.default_rng(0).normal(size=(130, 70)).astype(dtype)
    read = Linear().read(source, (70, 130))
    assert read.dtype == source.dtype
    assert read.tobytes() == source.T.tobytes()
    assert Linear().write(read).tobytes() == source.tobytes()


# For each transform the axes that lie flattened together in the source, and whether a part of the
# first of each group is read alone; what is not in a group is read whole.
GROUPS = {
    "same": (Same(), 3, [[0], [1], [2]]),
    "same, one axis": (Same(), 1, [[0]]),
    "leading axes": (Same(2), 2, [[0], [1]]),
    "flat": (Flat(), 1, [[0]]),
    "flat heads": (Flat(), 3, [[0, 1, 2]]),
    "linear": (Linear(), 2, [[0], [1]]),
    "linear to heads": (Linear(), 4, [[0], [1, 2, 3]]),
    "linear from heads": (Linear(2), 3, [[0, 1], [2]]),
    "heads to heads": (Linear(2, trailing=1), 4, [[0, 1], [2, 3]]),
    "patches": (PatchConvolution(), 2, [[1]]),
    "depthwise over time": (DepthwiseConvolution(trailing=2), 2, [[1]]),
    "depthwise": (DepthwiseConvolution(), 3, [[2]]),
}


@pytest.mark.parametrize(("transform", "rank", "groups"), GROUPS.values(), ids=GROUPS.keys())
def test_parts_are_slices_of_the_whole_and_read_contiguous_ranges(transform, rank, groups):
    random = np.random.default_rng(7)
    for _ in range(50):
        shape = tuple(int(n) for n in random.integers(1, 6, rank))
        if isinstance(transform, PatchConvolution):
            shape = (3 * shape[0] ** 2, shape[1])
        starts = [int(random.integers(0, n)) for n in shape]
        part = tuple(
            slice(start, int(random.integers(start, n)) + 1)
            for start, n in zip(starts, shape, strict=True)
        )
        ours = random.permutation(math.prod(shape)).reshape(shape)
        source, counted = transform.write(ours), []

        def read(where, source=source, counted=counted):
            counted.append(source[where].size)
            return source[where]

        np.testing.assert_array_equal(read_part(transform, read, shape, part), ours[part])
        alone = {group[0] for group in groups}
        sizes = [
            part[axis].stop - part[axis].start if axis in alone else n
            for axis, n in enumerate(shape)
        ]
        assert counted == [math.prod(sizes)]
