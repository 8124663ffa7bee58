"""Pictures: equal to the record of the original (goldens case 7); odd and broken files.

Reasons are what people count dropped records by: they are tested word by word.
"""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from owl_jax.errors import BadData, UserError
from owl_jax.media.image import (
    MAX_PIXELS,
    load_image,
    preprocess_image,
)
from owl_jax.models.vision.clip import ClipConfig

GOLDENS = Path(__file__).parents[1] / "goldens" / "case07_image_preprocess"
ARRAYS = np.load(GOLDENS / "outputs.npz")


def gradient(width=40, height=30) -> Image.Image:
    """Red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * x // (width - 1), 255 * y // (height - 1), np.full_like(x, 40)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, bits=8, colour_type=2, pixels=b"") -> bytes:
    """A PNG with this header and no pixels."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def tiff_16_bit() -> bytes:
    """Two RGB pixels with 16 bits per channel, which Pillow reads but does not write."""
    longs = {256: 2, 257: 1, 258: 122, 259: 1, 262: 2, 273: 128, 277: 3, 278: 1, 279: 12}
    entries = b"".join(
        struct.pack("<HHII", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1, value)
        for tag, value in longs.items()
    )
    directory = struct.pack("<H", len(longs)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<3H", 16, 16, 16) + bytes(12)


def animation(kind) -> bytes:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


class Part:
    """A Part: a file inside another."""

    def __init__(self, data: bytes):
        self.data = data

    def read(self) -> bytes:
        if not self.data:
            raise BadData("truncated file", "shard.tar/a.jpg: shard.tar ends within it")
        return self.data

    def __str__(self) -> str:
        return "shard.tar/a.jpg"


def reason_of(source, **options) -> str:
    with pytest.raises(BadData) as error:
        load_image(source, **options)
    assert "\n" not in str(error.value)
    return error.value.reason


@pytest.mark.parametrize("name", ["syn_rgba", "syn_L", "syn_P"])
def test_pixels_are_the_originals(name):
    source = GOLDENS / f"{name}.png"
    if name == "syn_rgba":
        # Half of it is transparent, which the original ignores and this does not: its number is
        # that of the stored colours.
        source = Image.open(source).convert("RGB")
    pixels = preprocess_image(load_image(source), 56)
    assert (pixels.shape, pixels.dtype) == ((56, 56, 3), np.uint8)
    values = (pixels / 255 - ClipConfig.pixel_mean) / ClipConfig.pixel_std
    expected = ARRAYS[f"{name}_train_default"].transpose(1, 2, 0)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


def test_transparent_picture_is_the_originals_where_it_is_opaque():
    with Image.open(GOLDENS / "syn_rgba.png") as stored:
        opaque = np.asarray(stored.getchannel("A")) == 255
        expected = np.asarray(stored.convert("RGB"))
    shown = np.asarray(load_image(GOLDENS / "syn_rgba.png"))
    np.testing.assert_array_equal(shown[opaque], expected[opaque])
    assert (shown[~opaque] > expected[~opaque]).any() and (shown >= expected).all()


def test_constants_are_the_originals():
    np.testing.assert_array_equal(ClipConfig.pixel_mean, ARRAYS["clip_mean"])
    np.testing.assert_array_equal(ClipConfig.pixel_std, ARRAYS["clip_std"])


def test_every_kind_of_source_gives_the_same_picture(tmp_path):
    image = gradient()
    path = tmp_path / "a.png"
    image.save(path)
    with path.open("rb") as file:
        for source in (path, str(path), path.read_bytes(), file, image):
            loaded = load_image(source)
            assert loaded.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(loaded), np.asarray(image))


def test_loaded_image_outlives_its_file_and_is_a_copy(tmp_path):
    path = tmp_path / "a.jpg"
    gradient().save(path)
    loaded = load_image(path)
    path.unlink()
    assert preprocess_image(loaded, 8).shape == (8, 8, 3)
    given = gradient()
    load_image(given).putpixel((0, 0), (9, 9, 9))
    assert given.getpixel((0, 0)) == (0, 0, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright = gradient()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    for kind in ("PNG", "TIFF"):
        once = load_image(encoded(stored, kind, exif=exif))
        np.testing.assert_array_equal(np.asarray(once), np.asarray(upright))
        np.testing.assert_array_equal(np.asarray(load_image(once)), np.asarray(upright))
    turned = load_image(encoded(stored, "JPEG", exif=exif, quality=95))
    assert np.abs(np.asarray(turned, int) - np.asarray(upright, int)).mean() < 4


def test_cmyk_jpeg():
    image = gradient()
    loaded = load_image(encoded(image.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(loaded, int) - np.asarray(image, int)).mean() < 4


def test_palette_with_transparency_is_on_white_without_a_warning():
    palette = Image.new("P", (4, 4))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    data = encoded(palette, "PNG", transparency=bytes([0, 51]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_image(data)
    assert (loaded.getpixel((0, 0)), loaded.getpixel((1, 0))) == ((255,) * 3, (244, 224, 214))


def test_one_bit():
    assert load_image(encoded(Image.new("1", (2, 2), 1), "PNG")).getpixel((0, 0)) == (255,) * 3


def test_16_bit_grey_is_scaled_not_clipped():
    grey = np.array([[0, 257, 40_000, 65_535]], np.uint16)
    expected = [0, 1, 156, 255]
    png = encoded(Image.fromarray(grey), "PNG")
    pgm = b"P5 4 1 65535\n" + grey.astype(">u2").tobytes()
    for data in (png, pgm, encoded(Image.fromarray(grey), "TIFF")):
        assert np.asarray(load_image(data))[0, :, 1].tolist() == expected


def test_animation_gives_its_first_frame():
    for kind in ("GIF", "PNG", "TIFF"):
        assert load_image(animation(kind)).getpixel((3, 2)) == (255, 0, 0)


def test_40_megapixels_work(tmp_path):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (8000, 5000), (0, 128, 0)).save(path)
    pixels = preprocess_image(load_image(path), 16)
    assert np.abs(pixels.astype(int) - [0, 128, 0]).max() <= 2


# MAX_PIXELS + 1 is below Pillow's own limit, the second size is above it.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(MAX_PIXELS + 1, 1), (60_000, 60_000)])
def test_too_many_pixels_are_refused_by_the_header(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size))
    with pytest.raises(UserError, match=r"bomb\.png: too large .*100 megapixels") as error:
        load_image(path)
    assert "\n" not in str(error.value)


def test_the_limit_itself_is_not_too_large():
    with pytest.raises(UserError, match="damaged or cut short"):
        load_image(png(80_000, 1_000))


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"^data\.jsonl:7: .*nowhere\.jpg: no such file$"):
        load_image(tmp_path / "nowhere.jpg", "data.jsonl:7")
    with pytest.raises(UserError, match=r"cannot be read \(is a directory\)"):
        load_image(tmp_path)


def test_text_named_jpg(tmp_path):
    path = tmp_path / "notes.jpg"
    for content in ("this is no picture", ""):
        path.write_text(content)
        with pytest.raises(UserError, match=r"notes\.jpg: not a picture.*JPEG"):
            load_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_truncated_file(tmp_path, kind):
    path = tmp_path / f"half.{kind.lower()}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=rf"half\.{kind.lower()}: (damaged|not a pict)") as error:
        load_image(path)
    assert "\n" not in str(error.value)


def test_postscript_is_not_opened():
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(UserError, match="not a picture"):
        load_image(data)


def test_pixels_of_an_unknown_range_are_refused():
    with pytest.raises(UserError, match="floating-point"):
        load_image(Image.new("F", (2, 2)))
    for value in (-1, 70_000):
        with pytest.raises(UserError, match="32-bit"):
            load_image(Image.new("I", (2, 2), value))


@pytest.mark.parametrize("source", [None, 3, ["a.jpg"], np.zeros((2, 2, 3), np.uint8)])
def test_other_objects_are_refused(source):
    with pytest.raises(UserError, match=f"found {type(source).__name__}"):
        load_image(source)


def test_unnamed_images_are_identified_by_where():
    with pytest.raises(UserError, match=r"^message 2: the picture: has no pixels"):
        load_image(Image.new("RGB", (0, 4)), "message 2")
    with pytest.raises(UserError, match=r"^the picture: not a picture"):
        load_image(b"text")


def test_every_failure_has_its_reason(tmp_path):
    jpeg = encoded(gradient(), "JPEG")
    assert reason_of(tmp_path / "nowhere.jpg") == "missing file"
    assert reason_of(tmp_path) == "unreadable file"
    for nothing in (b"text", b"", None, 3):
        assert reason_of(nothing) == "not a picture"
    assert reason_of(jpeg[: len(jpeg) // 2]) == "damaged picture"
    assert reason_of(png(60_000, 60_000)) == "picture too large"
    assert reason_of(Image.new("RGB", (MAX_PIXELS + 1, 1))) == "picture too large"
    assert reason_of(Image.new("RGB", (0, 4))) == "empty picture"
    assert reason_of(Image.new("F", (2, 2))) == "unsupported pixels"
    assert reason_of(Image.new("I", (2, 2), 70_000)) == "unsupported pixels"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused_on_demand(kind):
    assert load_image(animation(kind)).size == (6, 4)
    assert reason_of(animation(kind), unusual="refuse") == "animated picture"
    assert load_image(encoded(gradient(), kind), unusual="refuse").size == (40, 30)


def test_previews_of_a_camera_are_not_an_animation():
    data = encoded(gradient(), "MPO", save_all=True, append_images=[gradient(8, 8)])
    assert load_image(data, unusual="refuse").size == (40, 30)


def test_cmyk_is_refused_on_demand():
    data = encoded(gradient().convert("CMYK"), "JPEG")
    assert reason_of(data, unusual="refuse") == "CMYK picture"
    assert reason_of(Image.new("CMYK", (2, 2)), unusual="refuse") == "CMYK picture"


def test_more_than_8_bits_are_refused_on_demand():
    grey = Image.fromarray(np.full((2, 2), 40_000, np.uint16))
    # Colour type -> channels; each row begins with a filter byte.
    coloured = [
        png(1, 1, 16, kind, bytes(1 + 2 * n)) for kind, n in ((0, 1), (4, 2), (2, 3), (6, 4))
    ]
    ppm = [b"P6 1 1 65535\n" + bytes(6), b"P6 1 1 1023\n" + bytes(6), b"P3 1 1 1023\n 1 2 3"]
    grey_files = [encoded(grey, "PNG"), encoded(grey, "TIFF"), b"P5 1 1 65535\n" + bytes(2)]
    for source in (*coloured, *ppm, *grey_files, grey, tiff_16_bit()):
        assert load_image(source).mode == "RGB"
        assert reason_of(source, unusual="refuse") == "16-bit picture"


def test_usual_pictures_are_never_refused():
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        source = encoded(gradient().convert(mode), "PNG")
        assert load_image(source, unusual="refuse").mode == "RGB"
    for source in (b"P6 1 1 255\n" + bytes(3), b"P6 1 1 15\n" + bytes(3), b"P3 1 1 255\n 1 2 3"):
        assert load_image(source, unusual="refuse").mode == "RGB"
    assert load_image(gradient(), unusual="refuse").mode == "RGB"


def test_part_of_a_file_is_read_and_named():
    expected = np.asarray(gradient())
    np.testing.assert_array_equal(load_image(Part(encoded(gradient(), "PNG"))), expected)
    with pytest.raises(BadData, match=r"^data\.tar:3: shard\.tar/a\.jpg: not a picture"):
        load_image(Part(b"text"), "data.tar:3")
    with pytest.raises(BadData, match=r"^data\.tar:3: shard\.tar/a\.jpg: shard\.tar ends") as error:
        load_image(Part(b""), "data.tar:3")
    assert error.value.reason == "truncated file"


def test_shrinking_stops_before_the_square(tmp_path):
    data = encoded(gradient(640, 480), "JPEG", quality=95)
    sizes = {None: (640, 480), 300: (640, 480), 240: (320, 240), 100: (160, 120), 7: (80, 60)}
    for shrink_to, size in sizes.items():
        assert load_image(data, shrink_to=shrink_to).size == size
    # Only JPEG can be decoded at a reduced size.
    assert load_image(encoded(gradient(640, 480), "PNG"), shrink_to=7).size == (640, 480)


def test_shrunk_picture_gives_nearly_the_same_square():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encoded(gradient(640, 480), "JPEG", quality=95, exif=exif)
    whole = preprocess_image(load_image(data), 56).astype(int)
    shrunk = preprocess_image(load_image(data, shrink_to=56), 56).astype(int)
    assert 0 < np.abs(shrunk - whole).max() <= 8 and np.abs(shrunk - whole).mean() < 1


def test_truncated_jpeg_is_damaged_when_shrunk_too():
    data = encoded(gradient(640, 480), "JPEG")
    assert reason_of(data[: len(data) // 2], shrink_to=56) == "damaged picture"
