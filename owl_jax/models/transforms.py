"""Invertible transforms between released tensors and our parameters, one per kind of weight.

PyTorch stores a linear weight as [out, in] with heads flattened; ours are [*in, *out] with a head
axis (models/layers.py). Every transform computes the source's shape from ours, converts both ways,
and finds the source's slices that contain given slices of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]
Slices = tuple[slice, ...]
"""One slice per axis, with explicit start and stop."""

# Rows transposed at a time. It is the associativity of an L1 cache: rows whose length is a power of
# two all map to the same set.
_TRANSPOSE_ROWS = 12


def whole(shape: Shape) -> Slices:
    """The slices of a whole array."""
    return tuple(slice(0, size) for size in shape)


def size_of(part: Slices) -> Shape:
    """The shape of a slice."""
    return tuple(axis.stop - axis.start for axis in part)


@dataclass(frozen=True)
class Same:
    """The same numbers in the same order, with `leading` axes of length 1 in the source."""

    leading: int = 0

    def source_shape(self, shape: Shape) -> Shape:
        return (1,) * self.leading + shape

    def source_part(self, shape: Shape, part: Slices) -> tuple[Slices, Slices]:
        return whole((1,) * self.leading) + part, part

    def read(self, source: np.ndarray, shape: Shape) -> np.ndarray:
        return source.reshape(shape)

    def write(self, ours: np.ndarray) -> np.ndarray:
        return ours.reshape(self.source_shape(ours.shape))


@dataclass(frozen=True)
class Flat:
    """A bias: heads flattened in the source."""

    def source_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def source_part(self, shape: Shape, part: Slices) -> tuple[Slices, Slices]:
        flat, covered = _flattened(shape, part)
        return (flat,), covered

    def read(self, source: np.ndarray, shape: Shape) -> np.ndarray:
        return source.reshape(shape)

    def write(self, ours: np.ndarray) -> np.ndarray:
        return ours.reshape(-1)


@dataclass(frozen=True)
class Linear:
    """[out, in] in the source, [*in, *out] here.

    The source of a 1x1x1 convolution has `trailing` more axes of length 1.
    """

    num_in_axes: int = 1
    trailing: int = 0

    def source_shape(self, shape: Shape) -> Shape:
        inputs, outputs = shape[: self.num_in_axes], shape[self.num_in_axes :]
        return (math.prod(outputs), math.prod(inputs)) + (1,) * self.trailing

    def source_part(self, shape: Shape, part: Slices) -> tuple[Slices, Slices]:
        n = self.num_in_axes
        inputs, covered_inputs = _flattened(shape[:n], part[:n])
        outputs, covered_outputs = _flattened(shape[n:], part[n:])
        return (outputs, inputs, *whole((1,) * self.trailing)), covered_inputs + covered_outputs

    def read(self, source: np.ndarray, shape: Shape) -> np.ndarray:
        return _transposed(source.reshape(source.shape[:2])).reshape(shape)

    def write(self, ours: np.ndarray) -> np.ndarray:
        shape = self.source_shape(ours.shape)
        return _transposed(ours.reshape(shape[1], shape[0])).reshape(shape)


@dataclass(frozen=True)
class PatchConvolution:
    """[D, 3, p, p] in the source, [p * p * 3, D] here (pixels row by row, channels innermost)."""

    def source_shape(self, shape: Shape) -> Shape:
        side = math.isqrt(shape[0] // 3)
        return (shape[1], 3, side, side)

    def source_part(self, shape: Shape, part: Slices) -> tuple[Slices, Slices]:
        source = self.source_shape(shape)
        return (part[1], *whole(source[1:])), (slice(0, shape[0]), part[1])

    def read(self, source: np.ndarray, shape: Shape) -> np.ndarray:
        return source.transpose(2, 3, 1, 0).reshape(shape)

    def write(self, ours: np.ndarray) -> np.ndarray:
        width, channels, height, _ = self.source_shape(ours.shape)
        return ours.reshape(height, height, channels, width).transpose(3, 2, 0, 1)


@dataclass(frozen=True)
class DepthwiseConvolution:
    """[C, 1, *kernel] in the source, [*kernel, C] here.

    The source of a convolution over time alone has `trailing` more axes of length 1.
    """

    trailing: int = 0

    def source_shape(self, shape: Shape) -> Shape:
        return (shape[-1], 1, *shape[:-1]) + (1,) * self.trailing

    def source_part(self, shape: Shape, part: Slices) -> tuple[Slices, Slices]:
        source = self.source_shape(shape)
        return (part[-1], *whole(source[1:])), (*whole(shape[:-1]), part[-1])

    def read(self, source: np.ndarray, shape: Shape) -> np.ndarray:
        return np.moveaxis(source.reshape(shape[-1], *shape[:-1]), 0, -1)

    def write(self, ours: np.ndarray) -> np.ndarray:
        return np.moveaxis(ours, -1, 0).reshape(self.source_shape(ours.shape))


Transform = Same | Flat | Linear | PatchConvolution | DepthwiseConvolution


def read_part(
    transform: Transform, read: Callable[[Slices], np.ndarray], shape: Shape, part: Slices
) -> np.ndarray:
    """Reads `part` of our array of shape `shape` from the smallest contiguous range of its source.

    read: returns a part of the source.
    """
    source_part, covered = transform.source_part(shape, part)
    ours = transform.read(read(source_part), size_of(covered))
    pairs = zip(part, covered, strict=True)
    return ours[tuple(slice(p.start - c.start, p.stop - c.start) for p, c in pairs)]


def _flattened(shape: Shape, part: Slices) -> tuple[slice, Slices]:
    """For axes that the source flattens: (source range with `part`, our slices it covers)."""
    inner = math.prod(shape[1:])
    covered = (part[0], *whole(shape[1:]))
    return slice(part[0].start * inner, part[0].stop * inner), covered


def _transposed(matrix: np.ndarray) -> np.ndarray:
    """A contiguous transpose."""
    # NumPy copies dtypes that are not built in, such as bfloat16, element by element.
    bits = matrix.view(f"u{matrix.dtype.itemsize}")
    result = np.empty(bits.shape[::-1], bits.dtype)
    for start in range(0, len(bits), _TRANSPOSE_ROWS):
        rows = slice(start, start + _TRANSPOSE_ROWS)
        result[:, rows] = bits[rows].T
    return result.view(matrix.dtype)
