"""Converts an opened image to what a viewer shows: upright, in RGB, on white if transparent.

White is the background of most pages and viewers, and transparent diagrams, formulas and logos are
drawn for it. Opaque images are converted by Pillow's convert("RGB"), except that 16 bits are scaled
to 8 and not clipped.

This module does not know file names: media/image.py adds them to BadData. Its docstring lists the
reasons and the unusual images.
"""

from typing import Literal

import numpy as np
from PIL import Image

from owl_jax.errors import BadData
from owl_jax.media.metadata import turn_upright

Unusual = Literal["convert", "refuse"]

# 100 megapixels decode to 300 MB; a larger header is more likely an attack than a photograph.
MAX_PIXELS = 100_000_000
LARGEST = f"the largest is {MAX_PIXELS // 1_000_000} megapixels, please scale it down"

# Only cameras' raw files have these tags in the first directory of a TIFF: DNGVersion, or a
# NewSubfileType that marks the first image as a preview, with the others in SubIFDs.
_DNG_VERSION, _SUBFILE_TYPE, _IS_PREVIEW, _SUB_IFDS = 50706, 254, 1, 330
# A JPEG 2000 codestream begins with these markers; its first bit depth is byte 42.
_J2K_START, _J2K_DEPTH, _J2K_HEADER = b"\xff\x4f\xff\x51", 42, 1 << 16


def check_size(image: Image.Image) -> None:
    """Raises BadData, without a name, if the header states too many pixels or none."""
    width, height = image.size
    check_pixels(width, height)
    if width * height == 0:
        raise BadData("empty picture", f"has no pixels ({width} x {height})")


def check_pixels(width: int, height: int) -> None:
    """Raises BadData, without a name, for more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise BadData("picture too large", f"too large ({width} x {height} pixels); {LARGEST}")


def to_upright_rgb(
    image: Image.Image, unusual: Unusual = "convert", is_frame: bool = False
) -> Image.Image:
    """The image decoded, upright and in RGB; the same object if nothing changed, to save a copy.

    It no longer needs its file. is_frame: `image` is a video, not refused for its other frames.
    """
    _refuse_raw(image)
    if unusual == "refuse":
        _refuse_unusual(image, is_frame)
    _scale_transparent_colour(image)
    # Many BMP files have an unused alpha channel of zeros, which viewers ignore.
    may_be_unused = image.format == "BMP"
    # Pillow's convert("I") keeps values of 8 bits. Its results have no format; opened files do.
    may_be_8_bits = image.mode == "I" and image.format is None
    image.load()  # PNG and TIFF may store the orientation at the end
    image = turn_upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise BadData(
            "unsupported pixels",
            "has floating-point pixels; expected 8 or 16 bits, please convert it",
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _scaled_grey(image, may_be_8_bits)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = _with_alpha(image)
    if may_be_unused and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")
    return on_white(image)


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA image in RGB, on white."""
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image.convert("RGB")
    shown = Image.new("RGB", image.size, "white")
    shown.paste(image, mask=alpha)
    return shown


def _with_alpha(image: Image.Image) -> Image.Image:
    """RGBA of an image with alpha, premultiplied or not, or with a transparent colour."""
    if image.mode == "La":
        image = image.convert("LA")
    return image if image.mode == "RGBA" else image.convert("RGBA")


def _scaled_grey(image: Image.Image, may_be_8_bits: bool = False) -> Image.Image:
    """16-bit grey scaled to 8 bits; Pillow would clip at 255 and turn the image white.

    A transparent grey becomes an alpha channel.
    """
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise BadData(
            "unsupported pixels", "has 32-bit pixels; expected 8 or 16 bits, please convert it"
        )
    scale = 1 if may_be_8_bits and grey.max() <= 255 else 257
    scaled = Image.fromarray(np.round(grey / scale).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled.putalpha(Image.fromarray(np.where(grey == transparent, 0, 255).astype(np.uint8)))
    return scaled


def _scale_transparent_colour(image: Image.Image) -> None:
    """Scales a PNG's transparent colour to 8 bits; Pillow scales only the pixels."""
    tiles, colour = getattr(image, "tile", None), image.info.get("transparency")
    if not tiles or image.format != "PNG" or colour is None:
        return
    stored = str(tiles[0][3])
    if image.mode == "L" and isinstance(colour, int) and stored in ("L;2", "L;4"):
        image.info["transparency"] = colour * (85 if stored == "L;2" else 17) & 0xFF
    elif image.mode == "RGB" and isinstance(colour, tuple) and ";16" in stored:
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _refuse_raw(image: Image.Image) -> None:
    """Raises BadData for a camera's raw file in TIFF: Pillow would return its small preview."""
    if image.format != "TIFF":
        return
    tags = getattr(image, "tag_v2", {})
    is_preview = tags.get(_SUBFILE_TYPE) == _IS_PREVIEW and _SUB_IFDS in tags
    if image.tell() == 0 and (is_preview or _DNG_VERSION in tags):
        raise BadData(
            "unsupported format", "a camera's raw photograph, not supported; convert it to JPEG"
        )


def _refuse_unusual(image: Image.Image, is_frame: bool) -> None:
    """Raises BadData for an image that would lose frames, colours or bits."""
    # The other images of an MPO are a camera's previews, depth map or second eye.
    has_frames = image.format != "MPO" and getattr(image, "is_animated", False)
    if has_frames and not is_frame:
        raise BadData("animated picture", "has several frames or pages; expected a still picture")
    if image.mode == "CMYK":
        raise BadData("CMYK picture", "has CMYK colours; expected RGB or grey")
    if image.mode == "I" or image.mode.startswith("I;16") or _has_deep_colours(image):
        raise BadData("16-bit picture", "has more than 8 bits per channel; expected 8")


def _has_deep_colours(image: Image.Image) -> bool:
    """Whether the file has more bits per channel than the 8 that Pillow keeps.

    Only the arguments of Pillow's decoder show that, and only before the image is decoded.
    """
    tiles = getattr(image, "tile", None)
    if tiles and image.format == "JPEG2000":
        return _has_deep_codestream(image)
    if not tiles or image.format not in ("PNG", "PPM", "TIFF"):
        return False
    codec, _, _, arguments = tiles[0]
    first, *others = arguments if isinstance(arguments, tuple) else (arguments,)
    if codec.startswith("ppm"):
        return others[0] > 255
    return ";16" in str(first)


def _has_deep_codestream(image: Image.Image) -> bool:
    file = getattr(image, "fp", None)
    if file is None:
        return False
    position = file.tell()
    file.seek(0)
    head = file.read(_J2K_HEADER)
    file.seek(position)
    at = head.find(_J2K_START) + _J2K_DEPTH
    return at >= _J2K_DEPTH and at < len(head) and (head[at] & 0x7F) >= 8  # stored minus one
