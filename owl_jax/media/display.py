"""Rotates and flips a video's frames by the file's display matrix.

A phone stores frames in its sensor's orientation, with a display matrix that maps a stored point
(p, q) to the screen: p' = a p + c q, q' = b p + d q, with q downwards. FFmpeg returns nine numbers,
(a, b, u, c, d, v, x, y, w); a to d are in 16.16 fixed point (libavutil/display.h). Sizes, offsets
and pixel aspect ratios are ignored, since frames are resized to a square.
"""

import math

import numpy as np
from PIL import Image

_OPERATIONS = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
_MATRIX_BYTES = 36


def apply_display_matrix(image: Image.Image, matrix: bytes) -> Image.Image:
    """The frame in the nearest of the eight orientations; the same object if nothing changes.

    matrix: nine int32 in native byte order. A singular or truncated one changes nothing.
    """
    if len(matrix) < _MATRIX_BYTES:
        return image
    values = np.frombuffer(matrix, np.int32, 9).astype(np.float64)
    a, b, c, d = values[[0, 1, 3, 4]]
    if a * d == b * c:
        return image
    nearest = max(_OPERATIONS, key=lambda m: m[0] * a + m[1] * b + m[2] * c + m[3] * d)
    operation = _OPERATIONS[nearest]
    return image if operation is None else image.transpose(operation)


def rotation_matrix(degrees: int) -> bytes:
    """The display matrix of a counter-clockwise rotation."""
    angle = math.radians(degrees)
    cos, sin = round(math.cos(angle) * 0x10000), round(-math.sin(angle) * 0x10000)
    values = (cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30)
    return np.array(values, np.int32).tobytes()
