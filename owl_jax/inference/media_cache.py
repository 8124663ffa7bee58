"""Vectors of pictures and videos that have been encoded before.

Letters: S image side, T frames, n tokens of a medium, D width.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import jax
import numpy as np


def digest(pixels: np.ndarray) -> bytes:
    """SHA-256 of preprocessed pixels and their shape: equal only for equal vectors."""
    found = hashlib.sha256(f"{pixels.dtype.str}{pixels.shape}".encode())
    found.update(np.ascontiguousarray(pixels).data)
    return found.digest()


class MediaCache:
    """Keeps the most recently used vectors, up to a number of bytes. For one thread."""

    def __init__(self, max_bytes: int, encode: Callable[[np.ndarray], jax.Array]):
        """encode: uint8[S, S, 3] or uint8[T, S, S, 3] -> [n, D]."""
        self._max_bytes = max_bytes
        self._encode = encode
        self._vectors: OrderedDict[bytes, jax.Array] = OrderedDict()
        self._num_bytes = 0
        self.num_encoded = 0
        self.num_found = 0

    def vectors(self, key: bytes, pixels: np.ndarray) -> jax.Array:
        """[n, D] of a medium. key: its `digest`."""
        if key in self._vectors:
            self._vectors.move_to_end(key)
            self.num_found += 1
            return self._vectors[key]
        vectors = self._encode(pixels)
        self.num_encoded += 1
        if vectors.nbytes <= self._max_bytes:
            self._vectors[key] = vectors
            self._num_bytes += vectors.nbytes
        while self._num_bytes > self._max_bytes:
            _, oldest = self._vectors.popitem(last=False)
            self._num_bytes -= oldest.nbytes
        return vectors

    def clear(self) -> None:
        """Drops all vectors."""
        self._vectors.clear()
        self._num_bytes = 0
