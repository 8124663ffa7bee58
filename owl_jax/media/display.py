"""How a video's frames are shown: turned and mirrored as the file says.

A phone stores the frames as its sensor lies, and beside them a display matrix: where a stored point
(p, q) is on the screen, p' = a p + c q and q' = b p + d q, with q downwards. FFmpeg gives nine
numbers, (a, b, u, c, d, v, x, y, w), the first five of interest in 16.16 fixed point
(libavutil/display.h). Sizes and offsets do not matter, since frames are squashed to a square, and
neither do pixels that are not square.
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
    """The frame as the display matrix shows it; the same object where that changes nothing.

    matrix: nine int32 in the machine's order. Of one that turns by another angle, or shears, the
    nearest of the eight orientations is taken; one that shows nothing, or is cut, leaves the frame
    as it is.
    """
    if len(matrix) < _MATRIX_BYTES:
        return image
    values = np.frombuffer(matrix, np.int32, 9).astype(np.float64)
    a, b, c, d = values[[0, 1, 3, 4]]
    if a * d == b * c:
        return image  # everything would be on a line
    nearest = max(_OPERATIONS, key=lambda m: m[0] * a + m[1] * b + m[2] * c + m[3] * d)
    operation = _OPERATIONS[nearest]
    return image if operation is None else image.transpose(operation)


def rotation_matrix(degrees: int) -> bytes:
    """The display matrix of a turn, counter-clockwise, for what tells no more than that."""
    angle = math.radians(degrees)
    turn = round(math.cos(angle) * 0x10000), round(-math.sin(angle) * 0x10000)
    values = (turn[0], turn[1], 0, -turn[1], turn[0], 0, 0, 0, 1 << 30)
    return np.array(values, np.int32).tobytes()
