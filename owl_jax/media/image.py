"""Loads an image file as pixel values.

An image is rotated upright, converted to RGB, then resized to a square with Pillow's bicubic
filter, ignoring the aspect ratio; the model gets (value / 255 - mean) / std with CLIP's constants.
The original's training path does the same. Its prompt path, which is not copied, resizes before it
converts, so that palette files get nearest-neighbour pixels. Unlike the original, owl_jax applies
the EXIF orientation and makes transparent pixels white, as viewers do (media/rgb.py).

An image that cannot be used raises BadData with one of these reasons:

    missing file, unreadable file (a folder, a FIFO, no permission), not a picture, unsupported
    format (HEIC, JPEG XL, SVG, a camera's raw file and the like), damaged picture (corrupt or
    truncated), picture too large (MAX_PIXELS), empty picture (no pixels), unsupported pixels
    (floating-point, 32 bits);

and with unusual="refuse", for data that must not be altered silently:

    animated picture (only one of its frames or pages would be used), CMYK picture, 16-bit
    picture (more than 8 bits per channel).

Damaged metadata does not make an image unusable (media/metadata.py). Pixels stay uint8 until they
are on the device. Letters: S side of the square.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeGuard, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from owl_jax.errors import BadData, one_line
from owl_jax.files import GitPointer, bad_file, open_regular
from owl_jax.media.metadata import without_metadata
from owl_jax.media.resizing import SQUASH, Resizing
from owl_jax.media.rgb import LARGEST, MAX_PIXELS, Unusual, check_size, to_upright_rgb
from owl_jax.media.signatures import HEAD, identify

# A subset of Pillow's formats: its EPS reader, for example, runs another program on the file.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")

_MAX_SECOND_READ = 1 << 30  # bytes; larger files are not read again without their metadata
_TAIL = 18  # bytes

# The offset of the flags in a WebP header, and two of the flags.
_WEBP_FLAGS, _WEBP_IS_ANIMATED, _WEBP_HAS_ALPHA = 20, 0x02, 0x10

T = TypeVar("T")

__all__ = ["MAX_PIXELS", "Unusual", "check_size"]


class Part(Protocol):
    """A file inside another: read() returns all its bytes, str() its name for messages."""

    def read(self) -> bytes: ...


ImageSource = str | Path | bytes | BinaryIO | Part | Image.Image


def load_image(
    source: ImageSource,
    where: str | None = None,
    *,
    unusual: Unusual = "convert",
    shrink_to: int | None = None,
) -> Image.Image:
    """An upright RGB image from a file, its bytes, an open binary file, a Part or a PIL image.

    Returns the first frame of an animation. Transparent pixels become white; 16-bit grey is scaled
    to 8 bits, not clipped.

    Args:
      where: "data.jsonl:12", a prefix of the file's name in messages.
      unusual: whether animated, CMYK and 16-bit images are converted or refused.
      shrink_to: decodes a JPEG at the smallest of full, half, quarter or eighth size whose sides
        are both at least this long. Faster; after resizing, pixels differ by a few levels from a
        full decode. None: full size.

    Raises BadData (reasons: the module's docstring) with the file's name. Too many pixels are
    detected from the header, before decoding.
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

        def decode(image: Image.Image) -> Image.Image:
            if shrink_to is not None:
                image.draft(None, (shrink_to, shrink_to))
            return to_upright_rgb(image, unusual)

        if not isinstance(given, str | Path):
            return read_image(given, decode)
        with open_regular(Path(given)) as file:
            return read_image(file, decode)


def read_image(file: BinaryIO, decode: Callable[[Image.Image], T]) -> T:
    """Applies `decode` to the image in an open file; if Pillow fails, again without metadata.

    Checks the number of pixels first. Raises BadData, or whatever Pillow raises.
    """

    def attempt(opened: BinaryIO) -> T:
        with Image.open(opened, formats=IMAGE_FORMATS) as image:
            check_size(image)
            return decode(image)

    file = _with_alpha_flag(file)
    try:
        return attempt(file)
    except (BadData, Image.DecompressionBombError):
        raise
    # On a damaged file Pillow's decoders raise any exception.
    except Exception as error:
        stripped = _without_metadata(file)
        if stripped is not None:
            try:
                return attempt(BytesIO(stripped))
            except (BadData, Image.DecompressionBombError):
                raise
            except Exception as second:
                if isinstance(error, UnidentifiedImageError):
                    error = second
        if isinstance(error, UnidentifiedImageError):
            raise not_an_image(*_head_and_tail(file)) from error
        raise error


def _with_alpha_flag(file: BinaryIO) -> BinaryIO:
    """An animated WebP with its alpha flag set; any other file is returned as the same object.

    The flag describes the frames, and Pillow relies on it. But frames may be smaller than the
    canvas, and the canvas outside of them is transparent.
    """
    file.seek(0)
    head = file.read(_WEBP_FLAGS + 1)
    if (head[:4], head[8:16]) != (b"RIFF", b"WEBPVP8X") or not head[-1] & _WEBP_IS_ANIMATED:
        return file
    return BytesIO(head[:-1] + bytes([head[-1] | _WEBP_HAS_ALPHA]) + file.read())


def _without_metadata(file: BinaryIO) -> bytes | None:
    """The file's bytes without metadata; None if there is none to remove."""
    try:
        size = file.seek(0, io.SEEK_END)
        if size > _MAX_SECOND_READ:
            return None
        file.seek(0)
        data = file.read(size)
    except (OSError, ValueError):
        return None
    stripped = without_metadata(data)
    return None if stripped == data else stripped


def _head_and_tail(file: BinaryIO) -> tuple[bytes, bytes]:
    """The first HEAD and the last _TAIL bytes of a file."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _TAIL, 0))
    tail = file.read(_TAIL)
    file.seek(0)
    return file.read(HEAD), tail


def not_an_image(head: bytes, tail: bytes = b"") -> BadData:
    """BadData, without a name, for a file that is not an image or has an unsupported format."""
    found = identify(head, tail)
    if found is None:
        expected = ", ".join(IMAGE_FORMATS)
        message = f"not a picture; expected {expected}"
        return BadData("not a picture", message)
    if found.kind == "picture":
        return BadData("unsupported format", f"{found.name}, not supported; {found.advice}")
    advice = found.advice or f"expected {', '.join(IMAGE_FORMATS)}"
    return BadData("not a picture", f"not a picture but {found.name}; {advice}")


def preprocess_image(image: Image.Image, size: int, resizing: Resizing = SQUASH) -> np.ndarray:
    """Resizes an image to uint8[S, S, 3], S = size. Raises BadData like load_image."""
    with describe_failure("the picture"):
        check_size(image)
        square = resizing.square(to_upright_rgb(image), size)
    return np.array(square)


def to_rgb(image: Image.Image, unusual: Unusual = "convert", is_frame: bool = False) -> Image.Image:
    """A new upright RGB image. is_frame: `image` is a video, not refused for its other frames.

    Raises BadData without a name: callers add it (describe_failure).
    """
    check_size(image)
    upright = to_upright_rgb(image, unusual, is_frame)
    return upright.copy() if upright is image else upright


def is_part(source: object) -> TypeGuard[Part]:
    """Whether `source` is a Part and not an open file, which can seek."""
    return hasattr(source, "read") and not hasattr(source, "seek")


def read_part(part: Part, where: str | None) -> bytes:
    """The part's bytes. A BadData of its read() names the part; `where` is put before it."""
    try:
        return part.read()
    except BadData as error:
        message = f"{where}: {error}" if where else str(error)
        raise BadData(error.reason, message) from error


def name_source(source: object, where: str | None, noun: str) -> str:
    """A source's name in messages: "data.jsonl:12: a.jpg", or "the picture" if it has none."""
    has_name = isinstance(source, str | Path) or is_part(source)
    name = str(source) if has_name else f"the {noun}"
    return f"{where}: {name}" if where else name


@contextmanager
def describe_failure(name: str, noun: str = "picture") -> Iterator[None]:
    """Turns a failure to open or decode into a one-line BadData about `name`.

    noun: the noun in the reason ("damaged video").
    """
    try:
        yield
    except BadData as error:
        raise BadData(error.reason, f"{name}: {error}") from error
    except GitPointer as error:
        message = f"{name}: not a {noun} but a Git LFS pointer; run `git lfs pull`"
        raise BadData(f"not a {noun}", message) from error
    except Image.DecompressionBombError as error:
        message = f"{name}: too large ({one_line(error)}); {LARGEST}"
        raise BadData("picture too large", message) from error
    # On a damaged file Pillow's decoders raise any exception.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            bad = bad_file(error)
            raise BadData(bad.reason, f"{name}: {bad}") from error
        message = f"{name}: damaged or cut short ({one_line(error)})"
        raise BadData(f"damaged {noun}", message) from error
