"""How a tensor of the original lies in ours: one small invertible function for each kind of weight.

PyTorch keeps a linear weight as [out, in] with heads flattened; ours are [*in, *out] with heads
apart (models/layers.py). Every layout can tell the source's shape from ours, read and write.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Same:
    """The same numbers in the same order, with `leading` axes of length 1 in the source."""

    leading: int = 0

    def source_shape(self, shape: Shape) -> Shape:
        return (1,) * self.leading + shape

    def read(self, source: np.ndarray, shape: Shape) -> np.ndarray:
        return source.reshape(shape)

    def write(self, ours: np.ndarray) -> np.ndarray:
        return ours.reshape(self.source_shape(ours.shape))


@dataclass(frozen=True)
class Flat:
    """A bias: heads flattened in the source."""

    def source_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def read(self, source: np.ndarray, shape: Shape) -> np.ndarray:
        return source.reshape(shape)

    def write(self, ours: np.ndarray) -> np.ndarray:
        return ours.reshape(-1)


@dataclass(frozen=True)
class Linear:
    """[out, in] in the source, [*in, *out] here; `trailing` 1s follow if it was a 1x1x1 conv."""

    num_in_axes: int = 1
    trailing: int = 0

    def source_shape(self, shape: Shape) -> Shape:
        inputs, outputs = shape[: self.num_in_axes], shape[self.num_in_axes :]
        return (math.prod(outputs), math.prod(inputs)) + (1,) * self.trailing

    def read(self, source: np.ndarray, shape: Shape) -> np.ndarray:
        return source.reshape(source.shape[:2]).T.reshape(shape)

    def write(self, ours: np.ndarray) -> np.ndarray:
        shape = self.source_shape(ours.shape)
        return ours.reshape(shape[1], shape[0]).T.reshape(shape)


@dataclass(frozen=True)
class PatchConvolution:
    """[D, 3, p, p] in the source, [p * p * 3, D] here (pixels row by row, channels innermost)."""

    def source_shape(self, shape: Shape) -> Shape:
        side = math.isqrt(shape[0] // 3)
        return (shape[1], 3, side, side)

    def read(self, source: np.ndarray, shape: Shape) -> np.ndarray:
        return source.transpose(2, 3, 1, 0).reshape(shape)

    def write(self, ours: np.ndarray) -> np.ndarray:
        width, channels, height, _ = self.source_shape(ours.shape)
        return ours.reshape(height, height, channels, width).transpose(3, 2, 0, 1)


@dataclass(frozen=True)
class DepthwiseConvolution:
    """[C, 1, 3, 1, 1] (over time) in the source, [3, C] here."""

    def source_shape(self, shape: Shape) -> Shape:
        return (shape[1], 1, shape[0], 1, 1)

    def read(self, source: np.ndarray, shape: Shape) -> np.ndarray:
        return source.reshape(shape[::-1]).T

    def write(self, ours: np.ndarray) -> np.ndarray:
        return ours.T.reshape(self.source_shape(ours.shape))


Layout = Same | Flat | Linear | PatchConvolution | DepthwiseConvolution
