"""From a picture file to pixel values.

A picture is turned upright, converted to RGB, then squashed to a square with Pillow's bicubic
filter; the model sees (value / 255 - mean) / std with CLIP's constants. The original's training
path does the same; its prompt path resizes before it converts, which gives palette files
nearest-neighbour pixels, and is not copied. Two things are added, so that the model sees what a
viewer shows (media/rgb.py): the EXIF orientation is applied, and what is transparent is white.
The original ignores both.

What cannot be used raises BadData with one of these reasons:

    missing file, unreadable file (a folder, a FIFO, no permission), not a picture, unsupported
    format (HEIC, JPEG XL, SVG, a camera's raw file and the like), damaged picture (spoilt or cut
    short), picture too large (MAX_PIXELS), empty picture (no pixels), unsupported pixels
    (floating-point, 32 bits);

and with unusual="refuse", for data that must not be altered in silence:

    animated picture (several frames or pages, of which one would be seen), CMYK picture, 16-bit
    picture (more than 8 bits a channel).

Metadata never spoils a picture (media/metadata.py). Pixels stay uint8 until they are on the
device. Letters: S side of the square.
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
from owl_jax.files import bad_file, open_regular
from owl_jax.media.metadata import without_metadata
from owl_jax.media.rgb import LARGEST, MAX_PIXELS, Unusual, check_size, to_upright_rgb
from owl_jax.media.signatures import HEAD, identify

# OpenAI CLIP's preprocessing, as in the original's preprocessor_config.json.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Not all that Pillow knows: its EPS reader, for one, starts another program on the file. The first
# are those that Pillow imports first.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")

# Of a file that is read a second time without its metadata.
_LARGEST_SECOND_READ = 1 << 30
_TAIL = 18  # bytes

# Where a WebP's header has its flags, and two of them.
_WEBP_FLAGS, _WEBP_IS_ANIMATED, _WEBP_HAS_ALPHA = 20, 0x02, 0x10

T = TypeVar("T")

__all__ = ["MAX_PIXELS", "Unusual", "check_size"]


class Part(Protocol):
    """A file within another: read() gives all of it, str() its name for messages."""

    def read(self) -> bytes: ...


ImageSource = str | Path | bytes | BinaryIO | Part | Image.Image


def load_image(
    source: ImageSource,
    where: str | None = None,
    *,
    unusual: Unusual = "convert",
    shrink_to: int | None = None,
) -> Image.Image:
    """An upright RGB picture from a file, its bytes, an open binary file, a Part or a picture.

    Of an animation the first frame. What is transparent is white. 16-bit grey is scaled to 8 bits,
    not clipped.

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

        def decode(image: Image.Image) -> Image.Image:
            if shrink_to is not None:
                image.draft(None, (shrink_to, shrink_to))
            return to_upright_rgb(image, unusual)

        if not isinstance(given, str | Path):
            return read_picture(given, decode)
        with open_regular(Path(given)) as file:
            return read_picture(file, decode)


def read_picture(file: BinaryIO, decode: Callable[[Image.Image], T]) -> T:
    """What `decode` makes of the picture in an open file, whatever state its metadata is in.

    Too many pixels and none are found before. Where Pillow stumbles, it gets the file once more
    without metadata. Raises BadData, or whatever Pillow raises.
    """

    def attempt(opened: BinaryIO) -> T:
        with Image.open(opened, formats=IMAGE_FORMATS) as image:
            check_size(image)
            return decode(image)

    file = _with_alpha_told(file)
    try:
        return attempt(file)
    except (BadData, Image.DecompressionBombError):
        raise
    # On a damaged file Pillow's decoders raise whatever their parsers stumble over.
    except Exception as error:
        bare = _without_metadata(file)
        if bare is not None:
            try:
                return attempt(BytesIO(bare))
            except (BadData, Image.DecompressionBombError):
                raise
            except Exception as second:
                if isinstance(error, UnidentifiedImageError):
                    error = second
        if isinstance(error, UnidentifiedImageError):
            raise not_a_picture(*_ends(file)) from error
        raise error


def _with_alpha_told(file: BinaryIO) -> BinaryIO:
    """An animated WebP as one that has transparency; any other file is the same object.

    Its frames may be parts of the canvas. What none covers is transparent, whatever the header says
    about the frames, which is what Pillow goes by.
    """
    file.seek(0)
    head = file.read(_WEBP_FLAGS + 1)
    if (head[:4], head[8:16]) != (b"RIFF", b"WEBPVP8X") or not head[-1] & _WEBP_IS_ANIMATED:
        return file
    return BytesIO(head[:-1] + bytes([head[-1] | _WEBP_HAS_ALPHA]) + file.read())


def _without_metadata(file: BinaryIO) -> bytes | None:
    """None where there is nothing that could be left out."""
    try:
        size = file.seek(0, io.SEEK_END)
        if size > _LARGEST_SECOND_READ:
            return None
        file.seek(0)
        data = file.read(size)
    except (OSError, ValueError):
        return None
    bare = without_metadata(data)
    return None if bare == data else bare


def _ends(file: BinaryIO) -> tuple[bytes, bytes]:
    """The first HEAD bytes of a file and its last ones."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _TAIL, 0))
    tail = file.read(_TAIL)
    file.seek(0)
    return file.read(HEAD), tail


def not_a_picture(head: bytes, tail: bytes = b"") -> BadData:
    """What to raise, without a name, for a file that is no picture or none that can be read."""
    found = identify(head, tail)
    if found is None:
        expected = ", ".join(IMAGE_FORMATS)
        message = f"not a picture, whatever its name says; expected {expected}"
        return BadData("not a picture", message)
    if found.kind == "picture":
        return BadData("unsupported format", f"{found.name}, which is not read; {found.advice}")
    advice = found.advice or f"expected {', '.join(IMAGE_FORMATS)}"
    return BadData("not a picture", f"not a picture but {found.name}; {advice}")


def preprocess_image(image: Image.Image, size: int) -> np.ndarray:
    """The picture squashed to uint8[S, S, 3], S = size; no crop, whatever its aspect ratio.

    Raises BadData like load_image.
    """
    with describe_failure("the picture"):
        check_size(image)
        square = to_upright_rgb(image).resize((size, size), Image.Resampling.BICUBIC)
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


def to_rgb(image: Image.Image, unusual: Unusual = "convert", is_frame: bool = False) -> Image.Image:
    """A new upright RGB picture. is_frame: one frame of several is what is wanted.

    Raises BadData without a name: callers add it (describe_failure).
    """
    check_size(image)
    upright = to_upright_rgb(image, unusual, is_frame)
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
    except Image.DecompressionBombError as error:
        message = f"{name}: too large ({one_line(error)}); {LARGEST}"
        raise BadData("picture too large", message) from error
    # On a damaged file Pillow's decoders raise whatever their parsers stumble over.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            bad = bad_file(error)
            raise BadData(bad.reason, f"{name}: {bad}") from error
        message = f"{name}: damaged or cut short ({one_line(error)})"
        raise BadData(f"damaged {noun}", message) from error
