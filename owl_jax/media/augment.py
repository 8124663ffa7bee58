"""Random changes to pictures in training: crop, mirror, RandAugment.

Source: the original's caption processor (pipeline/data_utils/processors/caption_processor.py and
randaugment.py): a random crop resized to the square with the bicubic filter, a mirror image with
probability 0.5 and, by choice, RandAugment(N=2, M=7). What is drawn (Draw) is apart from what is
drawn by (Augmentation) and holds for all frames of a video. The seed is the caller's.

Letters: T frames, S side of the square.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from owl_jax.errors import UserError
from owl_jax.media.image import preprocess_image

# Of a crop, width / height: torchvision's RandomResizedCrop, which the original uses.
_ASPECTS = (3 / 4, 4 / 3)
_TRIES = 10

# RandAugment: how many operations are drawn, and how probably each of them is applied.
_NUM_OPERATIONS = 2
_PROBABILITY = 0.5
_COLOUR_OPERATIONS = ("Identity", "AutoContrast", "Equalize", "Brightness", "Sharpness")
_MOVING_OPERATIONS = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
# At level M = 7 of 10. Colours: 1 leaves them. The others go either way: shear in pixels a pixel,
# translation in pixels of the square, rotation in degrees.
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
_GREY = (128, 128, 128)  # shows where a moved picture leaves the square empty

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Draw:
    """What happens to every frame of one picture or video.

    picture: width and height of the picture that it was drawn for.
    box: left, upper, right and lower edge of the crop, in its pixels.
    flip: whether left and right change places.
    operations: RandAugment's, in order, each with its signed magnitude (0 where it has none).
    """

    picture: tuple[int, int]
    box: Box
    flip: bool = False
    operations: tuple[tuple[str, float], ...] = ()

    def apply(self, frames: Sequence[Image.Image], size: int) -> np.ndarray:
        """uint8[T, S, S, 3], S = size, of upright RGB pictures.

        In a frame of another size than `picture` the crop has the same place, in proportion.
        Raises ValueError for no frame.
        """
        return np.stack([self._apply_to_one(frame, size) for frame in frames])

    def _apply_to_one(self, frame: Image.Image, size: int) -> np.ndarray:
        box = self._box_in(frame.size)
        if box != (0, 0, *frame.size):
            # Cut first: resize(box=...) would let in what lies around the box.
            frame = frame.crop(box)
        if not self.flip and not self.operations:
            return preprocess_image(frame, size)
        square = Image.fromarray(preprocess_image(frame, size))
        if self.flip:
            square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for name, magnitude in self.operations:
            square = _operate(square, name, magnitude)
        return np.array(square)

    def _box_in(self, size: tuple[int, int]) -> Box:
        if size == self.picture:
            return self.box
        across, down = size[0] / self.picture[0], size[1] / self.picture[1]
        left, upper = int(self.box[0] * across), int(self.box[1] * down)
        right, lower = math.ceil(self.box[2] * across), math.ceil(self.box[3] * down)
        return left, upper, min(right, size[0]), min(lower, size[1])


@dataclass(frozen=True)
class Augmentation:
    """What may be drawn. Raises UserError for scales that are no share of a picture.

    min_scale, max_scale: share of the picture's area that a crop keeps; with both at 1 nothing is
      cropped.
    flip: whether half of the pictures are mirrored.
    rand_augment: whether RandAugment follows.
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
    ) -> np.ndarray:
        """uint8[T, S, S, 3], S = size, of upright RGB pictures, all with the same draw.

        keep_places: as in `draw`. Raises ValueError for no frame.
        """
        if not frames:
            raise ValueError("no frames to augment")
        return self.draw(frames[0].size, rng, keep_places).apply(frames, size)

    def draw(
        self, picture: tuple[int, int], rng: np.random.Generator, keep_places: bool = False
    ) -> Draw:
        """Draws for a picture of this width and height.

        keep_places: nothing moves, for texts that name a side: no crop, no mirror image, and of
          RandAugment only what changes colours, as often as it would otherwise.
        """
        box = (0, 0, *picture)
        if self.min_scale < 1 and not keep_places:
            box = _draw_crop(picture, (self.min_scale, self.max_scale), rng)
        flip = self.flip and not keep_places and rng.random() < 0.5
        operations = _draw_operations(rng) if self.rand_augment else ()
        if keep_places:
            operations = tuple(item for item in operations if item[0] in _COLOUR_OPERATIONS)
        return Draw(picture, box, flip, operations)

    def smallest_side(self, size: int) -> int:
        """How long a picture's sides have to be so that no crop of it is smaller than S = size.

        It is what load_image's shrink_to has to be.
        """
        if self.min_scale == 1:
            return size
        return math.ceil(size / math.sqrt(self.min_scale * _ASPECTS[0]))


def _draw_crop(
    picture: tuple[int, int], scales: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A box of a random area and aspect ratio, as torchvision's RandomResizedCrop describes it.

    If none of ten fits into the picture, the largest in its middle with an allowed aspect ratio.
    """
    width, height = picture
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

    As in the original, shears leave the upper left corner where it is. Unlike there, sharpness is
    clipped at 255 and does not wrap around to black.
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
    """inverse: where a pixel of the result comes from, (a x + b y + c, d x + e y + f)."""
    return square.transform(
        square.size,
        Image.Transform.AFFINE,
        inverse,
        Image.Resampling.BILINEAR,
        fillcolor=_GREY,
    )
