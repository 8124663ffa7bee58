"""Resizes learned positions of a square grid of patches to another number of patches.

Letters: P patches, D width.
"""

from __future__ import annotations

import math

import numpy as np

_SHARPNESS = -0.75  # of the cubic (Keys 1981), as in PyTorch; -0.5 in other libraries


def interpolated(positions: np.ndarray, tokens: int) -> np.ndarray:
    """float[.. + P, D] -> [tokens, D], resized bicubically like PyTorch's `interpolate`.

    A class token's position, if there is one before the grid's, stays as it is. Computes in float32
    and casts back. Raises ValueError if either grid is not a square or only one has a class token.
    """
    (found, prefix), (side, _) = (_grid(number) for number in (len(positions), tokens))
    if not fits(len(positions), tokens):
        raise ValueError(f"{len(positions)} positions do not fit {tokens} tokens")
    weights = _weights(found, side)
    grid = positions[prefix:].astype(np.float32).reshape(found, found, -1)
    resized = np.einsum("yi,xj,ijd->yxd", weights, weights, grid, optimize=True)
    patches = resized.reshape(side * side, -1).astype(positions.dtype)
    return np.concatenate([positions[:prefix], patches])


def fits(found: int, tokens: int) -> bool:
    """Whether both are square grids, either both with a class token or both without."""
    prefix = _grid(found)[1]
    return prefix == _grid(tokens)[1] and prefix <= 1


def _grid(tokens: int) -> tuple[int, int]:
    """(side, tokens before the grid)."""
    side = math.isqrt(tokens)
    return side, tokens - side * side


def _weights(found: int, wanted: int) -> np.ndarray:
    """float32[wanted, found]: each new point from its four neighbours; edges repeat."""
    weights = np.zeros((wanted, found), np.float32)
    for i in range(wanted):
        centre = (i + 0.5) * found / wanted - 0.5
        first = math.floor(centre) - 1
        for j in range(first, first + 4):
            weights[i, min(max(j, 0), found - 1)] += _cubic(abs(centre - j))
    return weights


def _cubic(distance: float) -> float:
    a = _SHARPNESS
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
