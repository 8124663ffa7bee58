"""Lazy arrays: sliced reads from files, so a model never has to fit in memory.

A `LazyArray` is anything with a shape, a dtype and slicing: a parameter in the original's
safetensors files (tensors.py), in a directory of ours (orbax_format.py), or an array in memory.
Models are converted, quantised and put on devices as trees of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format
from jax.sharding import Sharding, SingleDeviceSharding

from owl_jax.models.transforms import Shape, Slices, size_of, whole

# JAX's CPU device uses arrays aligned to this many bytes without copying them.
_ALIGNMENT = 64

_AHEAD = 2  # pieces to read ahead


class LazyArray(Protocol):
    """An array that is read by `array[part]`, with one slice for each axis."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, part: Slices, /) -> Any: ...


@dataclass(frozen=True)
class Mapped:
    """A lazy array with a function applied to each piece as it is read.

    change: (piece, its slices) -> a piece of the same shape and dtype.
    """

    array: LazyArray
    change: Callable[[np.ndarray, Slices], np.ndarray]

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @property
    def shape(self) -> Shape:
        return self.array.shape

    def __getitem__(self, part: Slices) -> np.ndarray:
        return self.change(np.asarray(self.array[part]), part)


@dataclass(frozen=True)
class Cast:
    """A lazy array in another dtype."""

    array: LazyArray
    dtype: Any

    @property
    def shape(self) -> Shape:
        return self.array.shape

    def __getitem__(self, part: Slices) -> np.ndarray:
        return np.asarray(self.array[part]).astype(jnp.dtype(self.dtype))


def pieces(shape: Shape, part: Slices | None = None) -> Iterator[Slices]:
    """Splits a part (by default the whole array) into single layers."""
    part = whole(shape) if part is None else part
    if len(shape) < 3:
        yield part
        return
    for i in range(part[0].start, part[0].stop):
        yield (slice(i, i + 1), *part[1:])


def ahead(reads: Iterable[Callable[[], np.ndarray]]) -> Iterator[np.ndarray]:
    """Yields the results in order and reads two ahead of the consumer."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting: deque[Future[np.ndarray]] = deque()
        for call in reads:
            waiting.append(pool.submit(call))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read(array: LazyArray, dtype: Any = None, part: Slices | None = None) -> np.ndarray:
    """Reads a part (by default the whole array), one layer at a time, as `dtype`."""
    part = whole(array.shape) if part is None else part
    result = _aligned_empty(size_of(part), np.dtype(array.dtype if dtype is None else dtype))
    for piece in pieces(array.shape, part):
        inside = zip(piece, part, strict=True)
        where = tuple(slice(p.start - w.start, p.stop - w.start) for p, w in inside)
        result[where] = np.asarray(array[piece])
    return result


def device_put_lazy(
    array: LazyArray, dtype: Any = None, sharding: Sharding | Format | None = None
) -> jax.Array:
    """Puts an array on devices as `dtype`; each process reads each of its own shards once."""
    if sharding is None:
        sharding = SingleDeviceSharding(jax.devices()[0])
    shards: dict[Any, np.ndarray] = {}

    def shard(index: Any) -> np.ndarray:
        bounds = [axis.indices(n) for axis, n in zip(index, array.shape, strict=True)]
        key = tuple(bounds)
        if key not in shards:
            shards[key] = read(array, dtype, tuple(slice(a, b) for a, b, _ in bounds))
        return shards[key]

    return jax.make_array_from_callback(tuple(array.shape), sharding, shard)


def infinities(array: np.ndarray) -> int:
    """Counts the elements that are not finite."""
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def nans(array: np.ndarray) -> int:
    """Counts the NaNs of a float array."""
    if array.size == 0:
        return 0
    # As an integer, a NaN exceeds the infinity of its sign. Two maxima take a fifth of the time of
    # isnan, which handles one bfloat16 at a time.
    width = array.dtype.itemsize
    positive, negative = np.array([np.inf, -np.inf], array.dtype).view(f"u{width}")
    signed, unsigned = array.view(f"i{width}"), array.view(f"u{width}")
    if signed.max() <= positive and unsigned.max() <= negative:
        return 0
    return int(np.count_nonzero(signed > positive) + np.count_nonzero(unsigned > negative))


def _aligned_empty(shape: Shape, dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)
