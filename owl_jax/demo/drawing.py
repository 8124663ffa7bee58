"""Draws scenes and clips, with Pillow and NumPy."""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from owl_jax.demo.scenes import COLORS, SIDE, Clip, Scene, Thing, cell

# Corners of each shape around its centre, in units of its radius; y points down. The shapes cover
# about the same area, so that size does not distinguish them.
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": tuple(
        (math.cos(2 * math.pi * k / 48), math.sin(2 * math.pi * k / 48)) for k in range(48)
    ),
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "triangle": ((0.0, -1.0), (1.08, 0.88), (-1.08, 0.88)),
}

_RADIUS = 0.385  # in cells: shapes are about three quarters of a cell wide
_SUPERSAMPLE = 4


def render(scene: Scene, size: int, rng: random.Random) -> Image.Image:
    """The scene as RGB, size x size pixels; `rng` varies positions, sizes and light slightly."""
    backdrop = _sample_backdrop(rng)
    return _paint([_sample_sprite(thing, rng) for thing in scene], backdrop, size)


def render_clip(clip: Clip, size: int, rng: random.Random, frames: int = 4) -> list[Image.Image]:
    """The clip as `frames` (at least 2) RGB images, evenly spaced, including both ends."""
    backdrop = _sample_backdrop(rng)
    mover = _sample_sprite(clip.mover, rng)
    bystander = _sample_sprite(clip.bystander, rng)
    rows, columns = clip.shift
    return [
        _paint(
            [bystander, mover._replace(x=mover.x + t * columns, y=mover.y + t * rows)],
            backdrop,
            size,
        )
        for t in np.linspace(0.0, 1.0, frames)
    ]


class _Sprite(NamedTuple):
    """An object to draw; centre and radius in cells, from the top left of the image."""

    color: str
    shape: str
    x: float
    y: float
    radius: float


def _sample_sprite(thing: Thing, rng: random.Random) -> _Sprite:
    row, column = cell(thing.place)
    return _Sprite(
        thing.color,
        thing.shape,
        x=column + 0.5 + rng.uniform(-0.05, 0.05),
        y=row + 0.5 + rng.uniform(-0.05, 0.05),
        radius=_RADIUS * rng.uniform(0.94, 1.06),
    )


def _sample_backdrop(rng: random.Random) -> np.ndarray:
    """Colours of the four corners, uint8[2, 2, 3]: dark blue-greys of varying brightness."""
    base = np.array([44, 48, 58]) + [rng.randint(-6, 6) for _ in range(3)]
    brightness = np.array([rng.randint(-12, 12) for _ in range(4)]).reshape(2, 2, 1)
    return (base + brightness).astype(np.uint8)


def _paint(sprites: Sequence[_Sprite], backdrop: np.ndarray, size: int) -> Image.Image:
    """Draws the sprites over the backdrop, with anti-aliasing by supersampling."""
    large = size * _SUPERSAMPLE
    # Interpolate at the final size and repeat pixels: cheaper than interpolating at the large size.
    canvas = Image.fromarray(backdrop).resize((size, size), Image.Resampling.BILINEAR)
    canvas = canvas.resize((large, large), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    cell_size = large / SIDE
    shade = tuple(int(channel) // 2 for channel in backdrop.mean(axis=(0, 1)))
    for sprite in sprites:
        # A shadow to the lower right separates the shape from the backdrop.
        for fill, offset in ((shade, 0.03), (COLORS[sprite.color], 0.0)):
            draw.polygon(
                [
                    (
                        (sprite.x + offset + x * sprite.radius) * cell_size,
                        (sprite.y + offset + y * sprite.radius) * cell_size,
                    )
                    for x, y in _OUTLINES[sprite.shape]
                ],
                fill=fill,
            )
    return canvas.reduce(_SUPERSAMPLE)
