"""Draws scenes and clips, with Pillow and NumPy."""

import math
import random
from collections.abc import Sequence
from itertools import combinations
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
    "cross": tuple(
        (x * sign, y * sign)
        for sign in (1, -1)
        for x, y in ((0.36, 1.04), (0.36, 0.36), (1.04, 0.36), (1.04, -0.36), (0.36, -0.36), (0.36, -1.04))
    ),
}

_RADII = (0.28, 0.34, 0.4)  # in cells: small, medium and large shapes
_MARGIN = 0.15  # from a cell's border to a centre: nearer, the place would be ambiguous
_GAP = 0.06  # between the circles around two objects
_SUPERSAMPLE = 4


def render(scene: Scene, size: int, rng: random.Random) -> Image.Image:
    """The scene as RGB, size x size pixels; `rng` varies positions, sizes and light."""
    backdrop = _sample_backdrop(rng)
    return _paint(_sample_sprites(rng, [(thing, (0, 0)) for thing in scene]), backdrop, size)


def render_clip(clip: Clip, size: int, rng: random.Random, frames: int = 4) -> list[Image.Image]:
    """The clip as `frames` (at least 2) RGB images, evenly spaced, including both ends."""
    backdrop = _sample_backdrop(rng)
    mover, bystander = _sample_sprites(rng, [(clip.mover, clip.shift), (clip.bystander, (0, 0))])
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


def _sample_sprites(
    rng: random.Random, things: Sequence[tuple[Thing, tuple[int, int]]]
) -> list[_Sprite]:
    """Draws each object's centre and size until no two touch.

    things: with the displacement of each, in rows and columns.
    """
    while True:
        sprites = [_sample_sprite(thing, rng) for thing, _ in things]
        moves = [shift for _, shift in things]
        pairs = combinations(zip(sprites, moves, strict=True), 2)
        if not any(_touch(*one, *other) for one, other in pairs):
            return sprites


def _sample_sprite(thing: Thing, rng: random.Random) -> _Sprite:
    row, column = cell(thing.place)
    radius = rng.choice(_RADII) * rng.uniform(0.95, 1.05)

    def centre(start: int) -> float:
        # At least a shape's longest half, 1.1 radii, from the edges of the picture.
        low, high = max(start + _MARGIN, 1.1 * radius), min(start + 1 - _MARGIN, SIDE - 1.1 * radius)
        return rng.uniform(low, high)

    return _Sprite(thing.color, thing.shape, centre(column), centre(row), radius)


def _touch(one: _Sprite, shift: tuple[int, int], other: _Sprite, _: tuple[int, int]) -> bool:
    """Whether `one`, anywhere on its way, comes too near to `other`, which rests."""
    rows, columns = shift
    way = np.hypot(rows, columns)
    along = ((other.x - one.x) * columns + (other.y - one.y) * rows) / max(way, 1)
    nearest = min(max(along, 0.0), way) / max(way, 1)
    distance = np.hypot(one.x + nearest * columns - other.x, one.y + nearest * rows - other.y)
    return distance < one.radius + other.radius + _GAP


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
