"""Random augmentation of training images: crop, horizontal flip, RandAugment.

Source: the original's caption processor (pipeline/data_utils/processors/caption_processor.py and
randaugment.py): a random crop resized to the square with the bicubic filter, a flip with
probability 0.5 and, optionally, RandAugment(N=2, M=7). An Augmentation holds the settings, a Draw
the random choices, which are the same for all frames of a video. The caller provides the seed.

Letters: T frames, S side of the square.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from owl_jax.errors import UserError
from owl_jax.media.image import preprocess_image
from owl_jax.media.resizing import SQUASH, Resizing

# A crop's width / height, from torchvision's RandomResizedCrop, which the original uses.
_ASPECTS = (3 / 4, 4 / 3)
_TRIES = 10

# RandAugment: the number of operations and the probability that each is applied.
_NUM_OPERATIONS = 2
_PROBABILITY = 0.5
_COLOUR_OPERATIONS = ("Identity", "AutoContrast", "Equalize", "Brightness", "Sharpness")
_MOVING_OPERATIONS = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
# Magnitudes at level M = 7 of 10. A colour factor of 1 changes nothing. The others get a random
# sign: shear in pixels per pixel, translation in pixels of the square, rotation in degrees.
_LEVEL = 7 / 10
_MAGNITUDES = {
    "Brightness": 1.8 * _LEVEL + 0.1,
    "Sharpness": 1.8 * _LEVEL + 0.1,
    "ShearX": 0.3 * _LEVEL,
    "ShearY": 0.3 * _LEVEL,
    "TranslateX": 10 * _LEVEL,
    "TranslateY": 10 * _LEVEL,
    "Rotate": 30 * _LEVEL,
}
_GREY = (128, 128, 128)  # fills the empty area of a moved image

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Draw:
    """The random choices for one image, or for all frames of one video.

    image_size: width and height of the image that they were drawn for.
    box: left, upper, right and lower edge of the crop, in its pixels.
    flip: whether to flip horizontally.
    operations: RandAugment's, in order, each with its signed magnitude (0 if it has none).
    """

    image_size: tuple[int, int]
    box: Box
    flip: bool = False
    operations: tuple[tuple[str, float], ...] = ()

    def apply(
        self, frames: Sequence[Image.Image], size: int, resizing: Resizing = SQUASH
    ) -> np.ndarray:
        """Upright RGB frames -> uint8[T, S, S, 3], S = size.

        The crop is scaled for frames that are not of `image_size`. Raises ValueError for no frames.
        """
        return np.stack([self._apply_to_one(frame, size, resizing) for frame in frames])

    def _apply_to_one(self, frame: Image.Image, size: int, resizing: Resizing) -> np.ndarray:
        box = self._box_in(frame.size)
        if box != (0, 0, *frame.size):
            # Not resize(box=...): its filter would read pixels outside the box.
            frame = frame.crop(box)
        if not self.flip and not self.operations:
            return preprocess_image(frame, size, resizing)
        square = Image.fromarray(preprocess_image(frame, size, resizing))
        if self.flip:
            square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for name, magnitude in self.operations:
            square = _operate(square, name, magnitude)
        return np.array(square)

    def _box_in(self, size: tuple[int, int]) -> Box:
        if size == self.image_size:
            return self.box
        across, down = size[0] / self.image_size[0], size[1] / self.image_size[1]
        left, upper = int(self.box[0] * across), int(self.box[1] * down)
        right, lower = math.ceil(self.box[2] * across), math.ceil(self.box[3] * down)
        return left, upper, min(right, size[0]), min(lower, size[1])


@dataclass(frozen=True)
class Augmentation:
    """The settings. Raises UserError for scales outside (0, 1].

    min_scale, max_scale: the fraction of the image's area that a crop keeps; both 1: no crop.
    flip: whether to flip half of the images.
    rand_augment: whether to apply RandAugment.
    """

    min_scale: float = 0.5
    max_scale: float = 1.0
    flip: bool = True
    rand_augment: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= self.max_scale <= 1:
            raise UserError(
                f"crops keep {self.min_scale} to {self.max_scale} of a picture's area; expected "
                "0 < min_scale <= max_scale <= 1"
            )

    def augment(
        self,
        frames: Sequence[Image.Image],
        size: int,
        rng: np.random.Generator,
        keep_places: bool = False,
        resizing: Resizing = SQUASH,
    ) -> np.ndarray:
        """Upright RGB frames -> uint8[T, S, S, 3], S = size, with one draw for all.

        keep_places: as in `draw`. Raises ValueError for no frames.
        """
        if not frames:
            raise ValueError("no frames to augment")
        return self.draw(frames[0].size, rng, keep_places).apply(frames, size, resizing)

    def draw(
        self, image_size: tuple[int, int], rng: np.random.Generator, keep_places: bool = False
    ) -> Draw:
        """Draws for an image of this width and height.

        keep_places: for texts that mention places: no crop, no flip, and only the colour operations
          of RandAugment, with unchanged probability.
        """
        box = (0, 0, *image_size)
        if self.min_scale < 1 and not keep_places:
            box = _draw_crop(image_size, (self.min_scale, self.max_scale), rng)
        flip = self.flip and not keep_places and rng.random() < 0.5
        operations = _draw_operations(rng) if self.rand_augment else ()
        if keep_places:
            operations = tuple(item for item in operations if item[0] in _COLOUR_OPERATIONS)
        return Draw(image_size, box, flip, operations)

    def smallest_side(self, size: int) -> int:
        """The shortest side of an image whose crops are never smaller than S = size.

        Pass it to load_image as shrink_to.
        """
        if self.min_scale == 1:
            return size
        return math.ceil(size / math.sqrt(self.min_scale * _ASPECTS[0]))


def _draw_crop(
    image_size: tuple[int, int], scales: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A box of random area and aspect ratio, as in torchvision's RandomResizedCrop.

    If none of ten fits into the image, returns the largest central box of an allowed aspect ratio.
    """
    width, height = image_size
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*scales)
        aspect = math.exp(rng.uniform(math.log(_ASPECTS[0]), math.log(_ASPECTS[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, upper, left + w, upper + h
    w = min(width, round(height * _ASPECTS[1]))
    h = min(height, round(width / _ASPECTS[0]))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def _draw_operations(rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    names = rng.choice(_COLOUR_OPERATIONS + _MOVING_OPERATIONS, _NUM_OPERATIONS)
    drawn = []
    for name in map(str, names):
        applied, negative = rng.random() < _PROBABILITY, rng.random() < 0.5
        magnitude = _MAGNITUDES.get(name, 0.0)
        if applied:
            drawn.append(
                (name, -magnitude if negative and name in _MOVING_OPERATIONS else magnitude)
            )
    return tuple(drawn)


def _operate(square: Image.Image, name: str, magnitude: float) -> Image.Image:
    """One operation of RandAugment.

    As in the original, shears do not move the upper left corner. Sharpness is clipped at 255; in
    the original it wraps around to black.
    """
    match name:
        case "AutoContrast":
            return ImageOps.autocontrast(square)
        case "Equalize":
            return ImageOps.equalize(square)
        case "Brightness":
            return ImageEnhance.Brightness(square).enhance(magnitude)
        case "Sharpness":
            return ImageEnhance.Sharpness(square).enhance(magnitude)
        case "ShearX":
            return _transform(square, (1, -magnitude, 0, 0, 1, 0))
        case "ShearY":
            return _transform(square, (1, 0, 0, -magnitude, 1, 0))
        case "TranslateX":
            return _transform(square, (1, 0, magnitude, 0, 1, 0))
        case "TranslateY":
            return _transform(square, (1, 0, 0, 0, 1, magnitude))
        case "Rotate":
            return square.rotate(magnitude, Image.Resampling.BILINEAR, fillcolor=_GREY)
        case _:  # Identity
            return square


def _transform(
    square: Image.Image, inverse: tuple[float, float, float, float, float, float]
) -> Image.Image:
    """inverse: (a, b, c, d, e, f); pixel (x, y) comes from (a x + b y + c, d x + e y + f)."""
    return square.transform(
        square.size,
        Image.Transform.AFFINE,
        inverse,
        Image.Resampling.BILINEAR,
        fillcolor=_GREY,
    )
