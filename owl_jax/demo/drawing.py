"""Draws scenes and clips, with Pillow and NumPy.

A shape has one of three sizes and lies anywhere in its quarter of the picture, with its centre away
from the quarter's borders; it may cross into a neighbouring quarter. Shapes never touch.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from owl_jax.demo.scenes import COLORS, SIDE, Clip, Scene, Thing, cell

# Corners of each shape around its centre, in units of its radius; y points down. Areas of shapes
# differ less than areas of sizes, so that area does not tell shapes apart.
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": tuple(
        (math.cos(2 * math.pi * k / 48), math.sin(2 * math.pi * k / 48)) for k in range(48)
    ),
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "triangle": ((0.0, -1.0), (1.08, 0.88), (-1.08, 0.88)),
}

_RADII = (0.28, 0.34, 0.4)  # in cells: small, medium and large shapes
_MARGIN = 0.15  # from a cell's border to a centre: nearer, the place would be ambiguous
_GAP = 0.06  # between the boxes around two objects, in cells
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


class _Box(NamedTuple):
    """All that an object covers on its way, in cells."""

    left: float
    top: float
    right: float
    bottom: float


def _sample_sprites(
    rng: random.Random, things: Sequence[tuple[Thing, tuple[int, int]]]
) -> list[_Sprite]:
    """Draws centres and sizes until no object comes near another.

    About one attempt in ten succeeds for four objects, and more for fewer.

    Args:
      rng: the random generator.
      things: each object with its displacement, in rows and columns.
    """
    sprites: list[_Sprite] = []
    boxes: list[_Box] = []
    while len(sprites) < len(things):
        thing, shift = things[len(sprites)]
        sprite = _sample_sprite(thing, shift, rng)
        box = _box(sprite, shift)
        if any(_near(box, other) for other in boxes):
            # Start over: if only this object were drawn again, the last ones would be the smallest.
            sprites, boxes = [], []
        else:
            sprites.append(sprite)
            boxes.append(box)
    return sprites


def _sample_sprite(thing: Thing, shift: tuple[int, int], rng: random.Random) -> _Sprite:
    """An object that lies within the picture, before and after its displacement."""
    radius = rng.choice(_RADII) * rng.uniform(0.95, 1.05)
    reach = 1.1 * radius  # a bit more than the widest shape has to one side

    def centre(start: int, way: int) -> float:
        return rng.uniform(
            max(start + _MARGIN, reach - min(way, 0)),
            min(start + 1 - _MARGIN, SIDE - reach - max(way, 0)),
        )

    (row, column), (rows, columns) = cell(thing.place), shift
    return _Sprite(thing.color, thing.shape, centre(column, columns), centre(row, rows), radius)


def _box(sprite: _Sprite, shift: tuple[int, int]) -> _Box:
    rows, columns = shift
    xs, ys = zip(*_OUTLINES[sprite.shape], strict=True)
    return _Box(
        left=sprite.x + min(xs) * sprite.radius + min(columns, 0),
        top=sprite.y + min(ys) * sprite.radius + min(rows, 0),
        right=sprite.x + max(xs) * sprite.radius + max(columns, 0),
        bottom=sprite.y + max(ys) * sprite.radius + max(rows, 0),
    )


def _near(one: _Box, other: _Box) -> bool:
    """Whether less than the gap separates two boxes, both across and down."""
    across = max(one.left, other.left) - min(one.right, other.right)
    down = max(one.top, other.top) - min(one.bottom, other.bottom)
    return max(across, down) < _GAP


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
