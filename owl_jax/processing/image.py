"""From a picture file to pixel values.

A picture is turned upright, converted to RGB, then squashed to a square with Pillow's bicubic
filter; the model sees (value / 255 - mean) / std with CLIP's constants. The original's training
path does the same; its prompt path resizes before it converts, which gives palette files
nearest-neighbour pixels, and is not copied. One thing is added: the EXIF orientation is applied,
which the original ignores, so that the model sees a phone's photograph as its owner does.

Pixels stay uint8 until they are on the device. Letters: S side of the square.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from owl_jax.errors import UserError

# OpenAI CLIP's preprocessing, as in the original's preprocessor_config.json.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# 100 megapixels decode to 300 MB; a larger header is more likely an attack than a photograph.
MAX_PIXELS = 100_000_000
_LARGEST = f"the largest is {MAX_PIXELS // 1_000_000} megapixels, please scale it down"

# Not all that Pillow knows: its EPS reader, for one, starts another program on the file.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

ImageSource = str | Path | bytes | BinaryIO | Image.Image


def load_image(source: ImageSource, where: str | None = None) -> Image.Image:
    """An upright RGB picture from a path, the bytes of a file, an open binary file or a picture.

    Of an animation the first frame. Transparency is dropped as Pillow's convert("RGB") does: the
    stored colour shows, no background is mixed in. 16-bit grey is scaled to 8 bits, not clipped.
    `where` ("data.jsonl:12") is put before the file's name in messages.

    Raises UserError, naming file and reason, for what is missing, is no picture, is damaged or cut
    short, has more than MAX_PIXELS pixels (read from the header, before decoding) or has
    floating-point or 32-bit pixels.
    """
    with describe_failure(name_source(source, where, "picture")):
        if isinstance(source, Image.Image):
            return _to_rgb(source)
        if isinstance(source, bytes):
            source = BytesIO(source)
        elif not isinstance(source, str | Path) and not hasattr(source, "read"):
            raise UserError(
                f"found {type(source).__name__}; expected a path, bytes, an open file or a PIL "
                "image"
            )
        with Image.open(source, formats=IMAGE_FORMATS) as image:
            return _to_rgb(image)


def preprocess_image(image: Image.Image, size: int) -> np.ndarray:
    """The picture squashed to uint8[S, S, 3], S = size; no crop, whatever its aspect ratio."""
    return np.array(load_image(image).resize((size, size), Image.Resampling.BICUBIC))


def normalize(pixels: np.ndarray) -> np.ndarray:
    """CLIP's pixel values float32[..., 3] of uint8[..., 3].

    Raises TypeError for other types, which have most likely been normalised before.
    """
    if pixels.dtype != np.uint8:
        raise TypeError(f"pixels are {pixels.dtype}; expected uint8")
    # In float64 and then float32, as the original's image processor computes it.
    unit = (pixels * (1 / 255)).astype(np.float32)
    return (unit - np.array(CLIP_MEAN, np.float32)) / np.array(CLIP_STD, np.float32)


def name_source(source: object, where: str | None, noun: str) -> str:
    """What messages call a source: "data.jsonl:12: a.jpg", or "the picture" for one of no name."""
    name = str(source) if isinstance(source, str | Path) else f"the {noun}"
    return f"{where}: {name}" if where else name


@contextmanager
def describe_failure(name: str) -> Iterator[None]:
    """Turn a failure to open or decode with Pillow into a UserError of one line about `name`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{name}: not a picture, whatever its name says; expected {', '.join(IMAGE_FORMATS)}"
        ) from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: too large ({_one_line(error)}); {_LARGEST}") from error
    # On a damaged file Pillow's decoders raise whatever their parsers stumble over.
    except Exception as error:
        from_system = isinstance(error, OSError) and error.strerror
        kind = "cannot be read" if from_system else "damaged or cut short"
        raise UserError(f"{name}: {kind} ({from_system or _one_line(error)})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """A new upright RGB picture that no longer needs its file."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(f"too large ({width} x {height} pixels); {_LARGEST}")
    if width * height == 0:
        raise UserError(f"has no pixels ({width} x {height})")
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise UserError("has floating-point pixels; expected 8 or 16 bits, please convert it")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow would clip at 255, which turns the picture white.
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise UserError("has 32-bit pixels; expected 8 or 16 bits, please convert it")
        image = Image.fromarray(np.round(grey / 257).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        # The same colours, without Pillow's warning.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
