"""Arrays that lie in files and are read in parts, so that a model never has to be in memory.

A `Stored` is anything with a shape, a dtype and parts: a parameter in safetensors files of the
original's layout (tensors.py), in a directory of ours (orbax_format.py), or an array in memory.
Trees of them are what is converted, quantised and put on devices.
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
from jax.sharding import Sharding, SingleDeviceSharding

from owl_jax.models.transforms import Shape, Slices, size_of, whole

# Arrays that begin at a multiple of this are taken over by a CPU device without a copy.
_ALIGNMENT = 64

_AHEAD = 2  # pieces


class Stored(Protocol):
    """An array whose parts can be read: `stored[part]`, with one slice for each axis."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, part: Slices, /) -> Any: ...


@dataclass(frozen=True)
class Mapped:
    """A stored array of which every piece is changed as it is read.

    change: (piece, its part) -> the piece as it is to be, of the same shape and dtype.
    """

    stored: Stored
    change: Callable[[np.ndarray, Slices], np.ndarray]

    @property
    def dtype(self) -> Any:
        return self.stored.dtype

    @property
    def shape(self) -> Shape:
        return self.stored.shape

    def __getitem__(self, part: Slices) -> np.ndarray:
        return self.change(np.asarray(self.stored[part]), part)


@dataclass(frozen=True)
class Cast:
    """A stored array in another dtype."""

    stored: Stored
    dtype: Any

    @property
    def shape(self) -> Shape:
        return self.stored.shape

    def __getitem__(self, part: Slices) -> np.ndarray:
        return np.asarray(self.stored[part]).astype(jnp.dtype(self.dtype))


def pieces(shape: Shape, part: Slices | None = None) -> Iterator[Slices]:
    """Cuts a part (everything by default) into what is handled at a time: one layer of a stack."""
    part = whole(shape) if part is None else part
    if len(shape) < 3:
        yield part
        return
    for i in range(part[0].start, part[0].stop):
        yield (slice(i, i + 1), *part[1:])


def ahead(reads: Iterable[Callable[[], np.ndarray]]) -> Iterator[np.ndarray]:
    """The results in order; the next two are being read while one is used."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting: deque[Future[np.ndarray]] = deque()
        for call in reads:
            waiting.append(pool.submit(call))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read(stored: Stored, dtype: Any = None, part: Slices | None = None) -> np.ndarray:
    """Reads a part (everything by default) piece by piece into one array of `dtype`."""
    part = whole(stored.shape) if part is None else part
    result = _aligned_empty(size_of(part), np.dtype(stored.dtype if dtype is None else dtype))
    for piece in pieces(stored.shape, part):
        inside = zip(piece, part, strict=True)
        where = tuple(slice(p.start - w.start, p.stop - w.start) for p, w in inside)
        result[where] = np.asarray(stored[piece])
    return result


def place(stored: Stored, dtype: Any = None, sharding: Sharding | None = None) -> jax.Array:
    """Puts an array on devices as `dtype`; each process reads what its devices hold, once."""
    if sharding is None:
        sharding = SingleDeviceSharding(jax.devices()[0])
    held: dict[Any, np.ndarray] = {}

    def part_of(index: Any) -> np.ndarray:
        bounds = [axis.indices(n) for axis, n in zip(index, stored.shape, strict=True)]
        key = tuple(bounds)
        if key not in held:
            held[key] = read(stored, dtype, tuple(slice(a, b) for a, b, _ in bounds))
        return held[key]

    return jax.make_array_from_callback(tuple(stored.shape), sharding, part_of)


def infinities(array: np.ndarray) -> int:
    """How many elements are not finite."""
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def nans(array: np.ndarray) -> int:
    """How many elements of an array of floats are no numbers."""
    if array.size == 0:
        return 0
    # The bits of a NaN, as an integer, exceed those of the infinity of its sign. Two maxima take a
    # fifth of the time of isnan, which does one bfloat16 at a time.
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
