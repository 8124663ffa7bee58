"""Transparent pixels become white in every format; opaque images equal Pillow's RGB."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from owl_jax.errors import BadData
from owl_jax.media.image import load_image, preprocess_image

Y, X = np.mgrid[:12, :16]
COLOURS = np.stack([X * 15, Y * 20, np.full_like(X, 60)], -1).astype(np.uint8)
ALPHA = np.where(Y < 4, 0, np.where(Y < 8, 102, 255)).astype(np.uint8)
RGBA = Image.fromarray(np.dstack([COLOURS, ALPHA]))
GREY = Image.merge("LA", [Image.fromarray(COLOURS[..., 0]), Image.fromarray(ALPHA)])


def on_white(colours) -> np.ndarray:
    """The definition, in floating point."""
    share = ALPHA[..., None] / 255
    return np.broadcast_to(colours * share + 255 * (1 - share), (12, 16, 3))


def encoded(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels, extra_samples) -> bytes:
    """An uncompressed TIFF with alpha; extra_samples: 1 for premultiplied colours, 2 for others."""
    height, width, channels = pixels.shape
    bits = 8 * pixels.itemsize
    values = {256: width, 257: height, 258: 0, 259: 1, 262: 2 if channels == 4 else 1, 273: 0}
    values |= {277: channels, 278: height, 279: pixels.nbytes, 338: extra_samples}
    end = 8 + 2 + 12 * len(values) + 4
    # Bits of each channel: two of them fit into the entry.
    values[258] = end if channels == 4 else bits | bits << 16
    values[273] = end + 2 * channels
    out = b"II*\0" + struct.pack("<IH", 8, len(values))
    for tag, value in values.items():
        is_list = tag == 258
        out += struct.pack("<HHII", tag, 3 if is_list else 4, channels if is_list else 1, value)
    return out + bytes(4) + struct.pack(f"<{channels}H", *[bits] * channels) + pixels.tobytes()


def png(bits, colour_type, row, **chunks) -> bytes:
    """A PNG of one row of two pixels."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 2, 1, bits, colour_type, 0, 0, 0)
    before = b"".join(chunk(kind.encode(), data) for kind, data in chunks.items())
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + chunk(b"IEND", b"")


def premultiplied(pixels) -> np.ndarray:
    share = pixels[..., -1:] / 255
    return np.dstack([np.round(pixels[..., :-1] * share), pixels[..., -1]]).astype(np.uint8)


def palette_with_alpha() -> Image.Image:
    picture = Image.fromarray(COLOURS).quantize(200)
    picture.putalpha(Image.fromarray(ALPHA))
    return picture


SOURCES = {
    "a picture": lambda: RGBA,
    "premultiplied picture": lambda: RGBA.convert("RGBa"),
    "PNG": lambda: encoded(RGBA, "PNG"),
    "WebP": lambda: encoded(RGBA, "WEBP", lossless=True, exact=True),
    "TIFF": lambda: encoded(RGBA, "TIFF", compression="tiff_lzw"),
    "TIFF, premultiplied": lambda: tiff(premultiplied(np.asarray(RGBA)), 1),
    "TIFF of 16 bits": lambda: tiff(np.asarray(RGBA).astype("<u2") * 257, 2),
    "JPEG 2000": lambda: encoded(RGBA, "JPEG2000"),
    "palette with alpha": palette_with_alpha,
    "TIFF, palette": lambda: encoded(palette_with_alpha(), "TIFF"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_alpha_is_composited_on_white(name):
    shown = np.asarray(load_image(SOURCES[name]())).astype(int)
    tolerance = 8 if "palette" in name else 2
    assert np.abs(shown - on_white(COLOURS)).max() <= tolerance
    assert (shown[:4] == 255).all()


@pytest.mark.parametrize(
    "source", [GREY, GREY.convert("La"), tiff(premultiplied(np.asarray(GREY)), 1)]
)
def test_grey_with_alpha_is_composited_on_white(source):
    shown = np.asarray(load_image(source)).astype(int)
    assert np.abs(shown - on_white(COLOURS[..., :1])).max() <= 2


def test_avif_with_alpha():
    shown = np.asarray(load_image(encoded(RGBA, "AVIF", quality=100, subsampling="4:4:4")))
    assert (shown[:3] == 255).all() and np.abs(shown[9:].astype(int) - COLOURS[9:]).max() < 12


# The first of two pixels has the colour that is transparent, the second has another.
@pytest.mark.parametrize(
    ("bits", "colour_type", "row", "transparent", "second"),
    [
        (1, 0, b"\x40", b"\0\0", (255, 255, 255)),
        (2, 0, b"\x60", b"\0\1", (170, 170, 170)),
        (4, 0, b"\x5a", b"\0\5", (170, 170, 170)),
        (8, 0, b"\x05\x09", b"\0\5", (9, 9, 9)),
        (16, 0, b"\x05\x09\x05\x0a", b"\5\x09", (5, 5, 5)),
        (8, 2, b"\1\2\3\4\5\6", b"\0\1\0\2\0\3", (4, 5, 6)),
        (16, 2, bytes(range(1, 13)), b"\1\2\3\4\5\6", (7, 9, 11)),
        (8, 3, b"\0\1", b"\0", (4, 5, 6)),
        (4, 3, b"\x01", b"\0", (4, 5, 6)),
    ],
)
def test_transparent_colour_of_a_png_is_white(bits, colour_type, row, transparent, second):
    palette = {"PLTE": b"\1\2\3\4\5\6"} if colour_type == 3 else {}
    shown = load_image(png(bits, colour_type, row, **palette, tRNS=transparent))
    assert (shown.getpixel((0, 0)), shown.getpixel((1, 0))) == ((255,) * 3, second)


def test_transparent_index_of_a_gif_is_white():
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((0, 0), 0)
    shown = load_image(encoded(picture, "GIF", transparency=0))
    assert (shown.getpixel((0, 0)), shown.getpixel((1, 0))) == ((255,) * 3, (0, 0, 255))


def bmp(*pixels) -> bytes:
    """One row of BGRA, as its header says."""
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, len(pixels), 1, 1, 32, 3, 0, 0, 0, 0, 0)
    data = info + masks + bytes(108 - 40 - 16) + b"".join(map(bytes, pixels))
    return b"BM" + struct.pack("<IHHI", 14 + len(data), 0, 0, 14 + 108) + data


def test_alpha_of_a_bmp_counts_unless_all_of_it_is_zero():
    shown = load_image(bmp((1, 2, 3, 0), (4, 5, 6, 255)))
    assert (shown.getpixel((0, 0)), shown.getpixel((1, 0))) == ((255,) * 3, (6, 5, 4))
    shown = load_image(bmp((1, 2, 3, 0), (4, 5, 6, 0)))
    assert (shown.getpixel((0, 0)), shown.getpixel((1, 0))) == ((3, 2, 1), (6, 5, 4))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "L", "RGB", "P", "1", "CMYK"])
def test_opaque_images_equal_pillows(mode):
    picture = Image.fromarray(COLOURS).convert("P" if mode == "PA" else mode)
    if mode == "PA":
        picture.putalpha(255)
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(load_image(picture)), expected)


def test_the_square_is_resized_after_compositing():
    """A logo on transparency, whose hidden colour is black, has no dark rim."""
    logo = np.zeros((40, 40, 4), np.uint8)
    logo[10:30, 10:30] = (250, 200, 150, 255)
    square = preprocess_image(Image.fromarray(logo), 13)
    assert square.min() >= 140 and (square[0] == 255).all()


def camera_raw(**tags) -> bytes:
    return encoded(
        Image.new("RGB", (8, 6)), "TIFF", tiffinfo={int(k[1:]): v for k, v in tags.items()}
    )


def test_preview_in_a_cameras_raw_file_is_not_used():
    for source in (camera_raw(t50706=b"\1\4\0\0"), camera_raw(t254=1, t330=8)):
        with pytest.raises(BadData, match="a camera's raw photograph") as error:
            load_image(source)
        assert error.value.reason == "unsupported format"
    assert load_image(camera_raw(t254=1)).size == (8, 6)


def test_deep_jpeg_2000_is_unusual():
    grey = encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "JPEG2000")
    colours = bytearray(encoded(RGBA.convert("RGB"), "JPEG2000", no_jp2=True))
    colours[42] = 15  # the bits of red, minus one
    for source in (grey, bytes(colours)):
        with pytest.raises(BadData) as error:
            load_image(source, unusual="refuse")
        assert error.value.reason == "16-bit picture"
    assert load_image(encoded(RGBA, "JPEG2000"), unusual="refuse").size == (16, 12)
