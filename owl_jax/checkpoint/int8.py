"""int8 weights of the language model's projections, with one scale per output channel.

A kernel W [*in, *out] becomes `kernel` int8 and `scale` float32 [*out] with
W ~ kernel * scale, |W| <= 127 * scale. A projection multiplies by the scale after the matmul
(models/layers.py), so W is never materialised. Layers are quantised as they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from owl_jax.checkpoint.lazy_arrays import LazyArray, pieces
from owl_jax.models.config import OwlConfig
from owl_jax.models.transforms import Linear, Shape, Slices, size_of, whole
from owl_jax.models.weight_names import projections

_LARGEST = 127


def quantize(config: OwlConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Quantises each kernel of the language model's layers, lazily, to int8 and a scale."""
    flat = flatten_dict(dict(params), sep="/")
    for row in projections(config.llm.weight_rows()).values():
        assert isinstance(row.transform, Linear)
        kernel, depth = flat[row.target], row.transform.num_in_axes
        shared = _Scales(kernel, depth)
        flat[row.target] = _Int8(kernel, shared)
        flat[row.target.removesuffix("kernel") + "scale"] = shared
    return unflatten_dict(flat, sep="/")


def abstract_int8(config: OwlConfig, params: dict[str, Any]) -> dict[str, Any]:
    """Abstract (shape-only) int8 parameters, as `quantize` makes them, with replicated scales.

    params: ShapeDtypeStructs with NamedShardings.
    """
    plain = flatten_dict(params)
    flat = {}
    for path, leaf in flatten_dict(quantize(config, params)).items():
        if path in plain:
            sharding = plain[path].sharding
        else:
            kernel = plain[*path[:-1], "kernel"]
            sharding = NamedSharding(kernel.sharding.mesh, PartitionSpec())
        flat[path] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return unflatten_dict(flat)


class _Scales:
    """The scales of a stacked kernel [layers, *in, *out]: float32[layers, *out], computed once."""

    def __init__(self, kernel: LazyArray, depth: int):
        self.dtype = np.dtype(np.float32)
        self.depth = depth
        self._kernel = kernel
        self._by_layer: dict[int, np.ndarray] = {}
        self.shape: Shape = (kernel.shape[0], *kernel.shape[1 + depth :])

    def __getitem__(self, part: Slices) -> np.ndarray:
        layers = range(part[0].start, part[0].stop)
        return np.stack([self.of_layer(layer) for layer in layers])[(slice(None), *part[1:])]

    def of_layer(self, layer: int, kernel: np.ndarray | None = None) -> np.ndarray:
        """float32[*out]; `kernel` is the layer [*in, *out], if it is in memory."""
        if layer not in self._by_layer:
            if kernel is None:
                rest = whole(self._kernel.shape[1:])
                kernel = np.asarray(self._kernel[(slice(layer, layer + 1), *rest)])[0]
            axes = tuple(range(self.depth))
            largest = np.maximum(kernel.max(axes), -kernel.min(axes)).astype(np.float32)
            # Any scale fits a channel of zeros.
            self._by_layer[layer] = np.where(largest > 0, largest, 1.0) / np.float32(_LARGEST)
        return self._by_layer[layer]


@dataclass(frozen=True)
class _Int8:
    kernel: LazyArray
    scales: _Scales

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.int8)

    @property
    def shape(self) -> Shape:
        return self.kernel.shape

    def __getitem__(self, part: Slices) -> np.ndarray:
        result = np.empty(size_of(part), np.int8)
        outputs = part[1 + self.scales.depth :]
        for piece in pieces(self.shape, part):
            layer = piece[0].start
            value = np.asarray(self.kernel[piece])[0]
            complete = piece[1:] == whole(self.shape[1:])
            scale = self.scales.of_layer(layer, value if complete else None)[outputs]
            value = value.astype(np.float32)
            with np.errstate(invalid="ignore"):  # Opened.print_notes reports infinities
                value /= scale
                result[layer - part[0].start] = np.rint(value, out=value).astype(np.int8)
        return result
