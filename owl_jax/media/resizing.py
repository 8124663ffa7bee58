"""How a model's images become squares, as its preprocessor_config.json describes it.

Letters: S side of the square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta
from PIL import Image

Level = Annotated[int, Meta(ge=0, le=255)]

# Above these an image is cut or shrunk first, so that no intermediate image is huge.
_MOST_ASPECT = 20  # ratio of the long side to the short side, before a crop
_MOST_PIXELS = 1 << 26  # of a padded image

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


@dataclass(frozen=True)
class Resizing:
    """Resizes an RGB image to a square.

    kind: "squash" ignores the aspect ratio (mPLUG-Owl, SigLIP); "pad" centres the image on a square
      of the colour `fill` (the authors' LLaVA-1.5); "crop" resizes the short side to S and keeps
      the centre (transformers' CLIPImageProcessor).
    filter: Pillow's resampling filter.
    fill: red, green, blue; by default CLIP's mean colour, as in LLaVA-1.5.
    """

    kind: Literal["squash", "pad", "crop"] = "squash"
    filter: Literal["bicubic", "bilinear"] = "bicubic"
    fill: tuple[Level, Level, Level] = (122, 116, 104)

    def square(self, image: Image.Image, size: int) -> Image.Image:
        """An RGB image -> S x S, S = size."""
        filter = _FILTERS[self.filter]
        if self.kind == "pad":
            image = self._padded(image, size)
        elif self.kind == "crop":
            image = _not_too_thin(image)
            short = min(image.size)
            across, down = (int(size * side / short) for side in image.size)
            left, upper = (across - size) // 2, (down - size) // 2
            whole = image.resize((across, down), filter)
            return whole.crop((left, upper, left + size, upper + size))
        return image.resize((size, size), filter)

    def _padded(self, image: Image.Image, size: int) -> Image.Image:
        side = max(image.size)
        if side**2 > _MOST_PIXELS:  # resized first; differs from the exact result at the edges only
            width, height = (max(1, round(size * length / side)) for length in image.size)
            image, side = image.resize((width, height), _FILTERS[self.filter]), size
        width, height = image.size
        if width == height:
            return image
        padded = Image.new("RGB", (side, side), self.fill)
        padded.paste(image, ((side - width) // 2, (side - height) // 2))
        return padded


def _not_too_thin(image: Image.Image) -> Image.Image:
    """An image, cut to its centre if it exceeds _MOST_ASPECT: resized whole, it could be huge."""
    width, height = image.size
    most = _MOST_ASPECT * min(width, height)
    if max(width, height) <= most:
        return image
    across, down = min(width, most), min(height, most)
    left, upper = (width - across) // 2, (height - down) // 2
    return image.crop((left, upper, left + across, upper + down))


SQUASH = Resizing()
