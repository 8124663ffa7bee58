"""From a picture file to pixel values.

A picture is turned upright, converted to RGB, then squashed to a square with Pillow's bicubic
filter; the model sees (value / 255 - mean) / std with CLIP's constants. The original's training
path does the same; its prompt path resizes before it converts, which gives palette files
nearest-neighbour pixels, and is not copied. One thing is added: the EXIF orientation is applied,
which the original ignores, so that the model sees a phone's photograph as its owner does.

What cannot be used raises BadData with one of these reasons:

    missing file, unreadable file (a folder, no permission), not a picture, damaged picture (spoilt
    or cut short), picture too large (MAX_PIXELS), empty picture (no pixels), unsupported pixels
    (floating-point, 32 bits);

and with unusual="refuse", for data that must not be altered in silence:

    animated picture (several frames or pages, of which one would be seen), CMYK picture, 16-bit
    picture (more than 8 bits a channel).

Pixels stay uint8 until they are on the device. Letters: S side of the square.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypeGuard

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from owl_jax.errors import BadData, one_line

# OpenAI CLIP's preprocessing, as in the original's preprocessor_config.json.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# 100 megapixels decode to 300 MB; a larger header is more likely an attack than a photograph.
MAX_PIXELS = 100_000_000
_LARGEST = f"the largest is {MAX_PIXELS // 1_000_000} megapixels, please scale it down"

# Not all that Pillow knows: its EPS reader, for one, starts another program on the file.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


class Part(Protocol):
    """A file within another: read() gives all of it, str() its name for messages."""

    def read(self) -> bytes: ...


ImageSource = str | Path | bytes | BinaryIO | Part | Image.Image
Unusual = Literal["convert", "refuse"]


def load_image(
    source: ImageSource,
    where: str | None = None,
    *,
    unusual: Unusual = "convert",
    shrink_to: int | None = None,
) -> Image.Image:
    """An upright RGB picture from a file, its bytes, an open binary file, a Part or a picture.

    Of an animation the first frame. Transparency is dropped as Pillow's convert("RGB") does: the
    stored colour shows, no background is mixed in. 16-bit grey is scaled to 8 bits, not clipped.

    Args:
      where: "data.jsonl:12", put before the file's name in messages.
      unusual: whether animated, CMYK and 16-bit pictures are converted or refused.
      shrink_to: a JPEG is decoded at the smallest of a whole, half, quarter or eighth of its size
        whose sides are both at least this long, which is faster; a square resized from it differs
        by a few levels from the whole picture's. None decodes the whole.

    Raises BadData (the module's docstring lists the reasons), naming the file. Too many pixels are
    found by the header, before decoding.
    """
    name = name_source(source, where, "picture")
    given: Any = read_part(source, where) if is_part(source) else source
    with describe_failure(name):
        if isinstance(given, Image.Image):
            return to_rgb(given, unusual)
        if isinstance(given, bytes):
            given = BytesIO(given)
        elif not isinstance(given, str | Path) and not hasattr(given, "read"):
            raise BadData(
                "not a picture",
                f"found {type(given).__name__}; expected a path, bytes, an open file or a PIL "
                "image",
            )
        with Image.open(given, formats=IMAGE_FORMATS) as image:
            check_size(image)
            if shrink_to is not None:
                image.draft(None, (shrink_to, shrink_to))
            return _to_upright_rgb(image, unusual)


def preprocess_image(image: Image.Image, size: int) -> np.ndarray:
    """The picture squashed to uint8[S, S, 3], S = size; no crop, whatever its aspect ratio.

    Raises BadData like load_image.
    """
    with describe_failure("the picture"):
        check_size(image)
        square = _to_upright_rgb(image).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(square)


def normalize(pixels: np.ndarray) -> np.ndarray:
    """CLIP's pixel values float32[..., 3] of uint8[..., 3].

    Raises TypeError for other types, which have most likely been normalised before.
    """
    if pixels.dtype != np.uint8:
        raise TypeError(f"pixels are {pixels.dtype}; expected uint8")
    # In float64 and then float32, as the original's image processor computes it.
    unit = (pixels * (1 / 255)).astype(np.float32)
    return (unit - np.array(CLIP_MEAN, np.float32)) / np.array(CLIP_STD, np.float32)


def check_size(image: Image.Image) -> None:
    """Raises BadData, without a name, for too many pixels or none; the header tells."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadData("picture too large", f"too large ({width} x {height} pixels); {_LARGEST}")
    if width * height == 0:
        raise BadData("empty picture", f"has no pixels ({width} x {height})")


def to_rgb(image: Image.Image, unusual: Unusual = "convert", is_frame: bool = False) -> Image.Image:
    """A new upright RGB picture. is_frame: one frame of several is what is wanted.

    Raises BadData without a name: callers add it (describe_failure).
    """
    check_size(image)
    upright = _to_upright_rgb(image, unusual, is_frame)
    return upright.copy() if upright is image else upright


def is_part(source: object) -> TypeGuard[Part]:
    """Whether `source` gives its bytes at once; an open file gives them piece by piece."""
    return hasattr(source, "read") and not hasattr(source, "seek")


def read_part(part: Part, where: str | None) -> bytes:
    """The part's bytes. Raises the BadData of its read(), which names it, with `where` before."""
    try:
        return part.read()
    except BadData as error:
        message = f"{where}: {error}" if where else str(error)
        raise BadData(error.reason, message) from error


def name_source(source: object, where: str | None, noun: str) -> str:
    """What messages call a source: "data.jsonl:12: a.jpg", or "the picture" for one of no name."""
    has_name = isinstance(source, str | Path) or is_part(source)
    name = str(source) if has_name else f"the {noun}"
    return f"{where}: {name}" if where else name


@contextmanager
def describe_failure(name: str, noun: str = "picture") -> Iterator[None]:
    """Turn a failure to open or decode with Pillow into BadData of one line about `name`.

    noun: what the reasons call it ("damaged video").
    """
    try:
        yield
    except BadData as error:
        raise BadData(error.reason, f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise BadData("missing file", f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        expected = ", ".join(IMAGE_FORMATS)
        message = f"{name}: not a {noun}, whatever its name says; expected {expected}"
        raise BadData(f"not a {noun}", message) from error
    except Image.DecompressionBombError as error:
        message = f"{name}: too large ({one_line(error)}); {_LARGEST}"
        raise BadData("picture too large", message) from error
    # On a damaged file Pillow's decoders raise whatever their parsers stumble over.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            message = f"{name}: cannot be read ({error.strerror})"
            raise BadData("unreadable file", message) from error
        message = f"{name}: damaged or cut short ({one_line(error)})"
        raise BadData(f"damaged {noun}", message) from error


def _to_upright_rgb(
    image: Image.Image, unusual: Unusual = "convert", is_frame: bool = False
) -> Image.Image:
    """The picture upright and in RGB, decoded; the same object where it was so: a copy costs time.

    It no longer needs its file.
    """
    if unusual == "refuse":
        _refuse_unusual(image, is_frame)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise BadData(
            "unsupported pixels",
            "has floating-point pixels; expected 8 or 16 bits, please convert it",
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow would clip at 255, which turns the picture white.
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise BadData(
                "unsupported pixels", "has 32-bit pixels; expected 8 or 16 bits, please convert it"
            )
        image = Image.fromarray(np.round(grey / 257).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        # The same colours, without Pillow's warning.
        image = image.convert("RGBA")
    if image.mode == "RGB":
        image.load()
        return image
    return image.convert("RGB")


def _refuse_unusual(image: Image.Image, is_frame: bool) -> None:
    """Raises BadData for a picture of which only an altered form can be seen."""
    # The further pictures of an MPO are a camera's previews, depth map or second eye.
    has_frames = image.format != "MPO" and getattr(image, "is_animated", False)
    if has_frames and not is_frame:
        raise BadData("animated picture", "has several frames or pages; expected a still picture")
    if image.mode == "CMYK":
        raise BadData("CMYK picture", "has the colours of print (CMYK); expected RGB or grey")
    if image.mode == "I" or image.mode.startswith("I;16") or _has_deep_colours(image):
        raise BadData("16-bit picture", "has more than 8 bits a channel; expected 8")


def _has_deep_colours(image: Image.Image) -> bool:
    """Whether the file of a picture that Pillow calls 8-bit has more; known until it is decoded.

    Pillow keeps the upper byte of 16-bit colours; only what it tells its decoder shows that.
    """
    tiles = getattr(image, "tile", None)
    if not tiles or image.format not in ("PNG", "PPM", "TIFF"):
        return False
    codec, _, _, arguments = tiles[0]
    first, *others = arguments if isinstance(arguments, tuple) else (arguments,)
    if codec.startswith("ppm"):
        return others[0] > 255
    return ";16" in str(first)
