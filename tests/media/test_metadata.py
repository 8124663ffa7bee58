"""Damaged metadata does not prevent reading the pixels or the orientation."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from owl_jax.errors import BadData
from owl_jax.media.image import load_image
from owl_jax.media.metadata import exif_orientation

Y, X = np.mgrid[:12, :16]
UPRIGHT = Image.fromarray(np.stack([X * 15, Y * 20, np.full_like(X, 60)], -1).astype(np.uint8))
TURNED = UPRIGHT.transpose(Image.Transpose.ROTATE_90)  # orientation 6 makes it upright
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}


def encoded(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(source, expected) -> float:
    shown = np.asarray(load_image(source)).astype(int)
    assert shown.shape == np.asarray(expected).shape
    return float(np.abs(shown - np.asarray(expected)).mean())


def exif(*entries, order="<", count=None, start=8, after=b"") -> bytes:
    """An EXIF block; an entry is (tag, type, number of values, four bytes)."""
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    out += struct.pack(order + "H", len(entries) if count is None else count)
    for tag, kind, number, value in entries:
        out += struct.pack(order + "HHI", tag, kind, number) + value
    return b"Exif\0\0" + out + bytes(4) + after


def orientation(value=6, order="<"):
    return (274, 3, 1, struct.pack(order + "HH", value, 0))


SOUND_ORIENTATION = {
    "alone": exif(orientation()),
    "big-endian": exif(orientation(order=">"), order=">"),
    "twice marked": b"Exif\0\0" + exif(orientation()),
    "as LONG": exif((274, 4, 1, struct.pack("<I", 6))),
    "negative resolution": exif(
        orientation(), (282, 5, 1, struct.pack("<I", 38)), after=struct.pack("<ii", -72, 1)
    ),
    "signed resolution": exif(
        orientation(), (282, 10, 1, struct.pack("<I", 38)), after=struct.pack("<ii", -72, -1)
    ),
    "resolution by zero": exif(
        orientation(), (282, 5, 1, struct.pack("<I", 38)), after=struct.pack("<II", 1, 0)
    ),
    "more entries than there are": exif(orientation(), count=60_000),
    "a value elsewhere": exif(orientation(), (271, 2, 100, b"\xff\xff\xff\x7f")),
    "a huge maker note": exif(orientation(), (0x927C, 7, 0xFFFFFFF0, struct.pack("<I", 8))),
    "a circle": exif(orientation(), (0x8769, 4, 1, struct.pack("<I", 8)), after=b"\x08\0\0\0"),
    "an unknown type": exif(orientation(), (0x9000, 99, 1, bytes(4))),
    "cut behind it": exif(orientation(), (271, 2, 100, bytes(4)))[: 6 + 8 + 2 + 12 + 3],
}
NO_ORIENTATION = {
    "zero": exif(orientation(0)),
    "nine": exif(orientation(9)),
    "text": exif((274, 2, 2, b"6\0\0\0")),
    "float": exif((274, 11, 1, struct.pack("<f", 6))),
    "a long list": exif((274, 3, 1000, struct.pack("<I", 8))),
    "elsewhere": exif(orientation(), start=5000),
    "cut": exif(orientation())[: 6 + 8 + 2 + 9],
    "zeros": b"Exif\0\0" + bytes(60),
    "nothing": b"Exif\0\0",
}


@pytest.mark.parametrize("name", SOUND_ORIENTATION)
@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_orientation_is_read_beside_broken_metadata(kind, name):
    source = encoded(TURNED, kind, exif=SOUND_ORIENTATION[name], **LOSSLESS[kind])
    assert difference(source, UPRIGHT) < (4 if kind == "JPEG" else 0.01)
    assert exif_orientation(SOUND_ORIENTATION[name]) == 6


@pytest.mark.parametrize("name", NO_ORIENTATION)
@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_broken_orientation_is_none(kind, name):
    source = encoded(TURNED, kind, exif=NO_ORIENTATION[name], **LOSSLESS[kind])
    assert difference(source, TURNED) < (4 if kind == "JPEG" else 0.01)
    assert exif_orientation(NO_ORIENTATION[name]) is None


def test_orientation_of_xmp_and_of_imagemagicks_text():
    xmp = b'<x tiff:Orientation="6"/>'
    assert difference(encoded(TURNED, "WEBP", xmp=xmp, lossless=True), UPRIGHT) == 0
    block = exif(orientation())
    text = f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()
    source = png(TURNED, [(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))])
    assert difference(source, UPRIGHT) == 0


def chunk(kind, content, check=None) -> bytes:
    check = zlib.crc32(kind + content) if check is None else check
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(image, before=(), after=()) -> bytes:
    """A PNG of an RGB picture with more chunks, (kind, content) or (kind, content, check sum)."""
    header = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(row.tobytes()) for row in np.asarray(image))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header),
            *(chunk(*item) for item in before),
            chunk(b"IDAT", zlib.compress(rows)),
            *(chunk(*item) for item in after),
            chunk(b"IEND", b""),
        ]
    )


BOMB = zlib.compress(bytes(5_000_000))
CHUNKS = {
    "a text that unpacks to 5 MB": (b"zTXt", b"a\0\0" + BOMB),
    "XMP that unpacks to 5 MB": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "a profile that unpacks to 5 MB": (b"iCCP", b"x\0\0" + BOMB),
    "a profile of an unknown method": (b"iCCP", b"x\0\5abc"),
    "an empty profile": (b"iCCP", b""),
    "short physical sizes": (b"pHYs", b"\1\2"),
    "short gamma": (b"gAMA", b"\1"),
    "short chromaticities": (b"cHRM", b"\1"),
    "empty sRGB": (b"sRGB", b""),
    "a wrong check sum": (b"tEXt", b"a\0b", 7),
    "a wrong check sum of EXIF": (b"eXIf", b"II*\0", 7),
    "an unknown method": (b"zTXt", b"a\0\7abc"),
    "transparency of a wrong size": (b"tRNS", b"\0\1"),
    "a short animation header": (b"acTL", b"\0"),
    "a short frame header": (b"fcTL", b"\0"),
    "an animation's data alone": (b"fdAT", b"\0\0\0\0"),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_broken_chunks_of_a_png_are_ignored(name):
    assert difference(png(UPRIGHT, [CHUNKS[name]]), UPRIGHT) == 0
    assert difference(png(UPRIGHT, after=[CHUNKS[name]]), UPRIGHT) == 0


def test_many_large_texts_and_the_orientation_beside_them():
    text = zlib.compress(bytes(900_000))
    texts = [(b"zTXt", b"%d\0\0" % number + text) for number in range(100)]
    source = png(TURNED, [*texts, (b"eXIf", SOUND_ORIENTATION["negative resolution"][6:])])
    assert difference(source, UPRIGHT) == 0


def test_broken_pixels_of_a_png_stay_broken():
    source = png(UPRIGHT, [CHUNKS["short gamma"]])
    at = source.index(b"IDAT") + 10
    with pytest.raises(BadData) as error:
        load_image(source[:at] + b"\xff\xff" + source[at + 2 :])
    assert error.value.reason == "damaged picture"


SEGMENTS = {
    "a short profile": (0xE2, b"ICC_PROFILE\0"),
    "a broken list of pictures": (0xE2, b"MPF\0abc"),
    "Photoshop's cut": (0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0"),
    "a short JFIF": (0xE0, b"JFIF\0"),
    "a short Adobe": (0xEE, b"Adobe"),
    "XMP that is no text": (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe<"),
    "EXIF of one byte": (0xE1, b"Exif\0\0I"),
    "an empty comment": (0xFE, b""),
}


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_broken_segments_of_a_jpeg_are_ignored(name):
    source = encoded(UPRIGHT, "JPEG")
    marker, content = SEGMENTS[name]
    segment = bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content
    expected = np.asarray(Image.open(io.BytesIO(source)))
    assert difference(source[:2] + segment + source[2:], expected) == 0


def test_orientation_survives_a_broken_segment():
    source = encoded(TURNED, "JPEG", exif=SOUND_ORIENTATION["negative resolution"], quality=95)
    broken = source[:2] + b"\xff\xe0\0\x07JFIF\0" + source[2:]
    assert difference(broken, UPRIGHT) < 4


def test_broken_chunks_of_a_webp_are_ignored():
    pixels = encoded(UPRIGHT, "WEBP", lossless=True)[12:]
    flags = b"VP8X" + struct.pack("<I", 10) + b"\x2c\0\0\0\x0f\0\0\x0b\0\0"
    body = b"WEBP" + flags + pixels + b"EXIF" + struct.pack("<I", 9999) + b"abc"
    assert difference(b"RIFF" + struct.pack("<I", len(body)) + body, UPRIGHT) == 0


def test_broken_exif_of_an_avif_is_ignored():
    block = exif(orientation(), (271, 2, 4, b"Owl\0"))
    source = encoded(TURNED, "AVIF", quality=100, subsampling="4:4:4", exif=block)
    assert difference(source, UPRIGHT) < 12
    broken, count = re.subn(rb"(II\*\0|MM\0\*)(?=[\0\x08]{4})", b"XX*\0", source)
    assert count == 1
    with pytest.raises(Exception, match="Exif"):
        Image.open(io.BytesIO(broken)).load()
    assert difference(broken, UPRIGHT) < 12


def test_orientation_of_a_tiff_beside_a_negative_resolution():
    source = encoded(TURNED, "TIFF", tiffinfo={274: 6}, resolution=72)
    at = source.index(struct.pack("<II", 72, 1))
    assert difference(source[:at] + struct.pack("<ii", -72, 1) + source[at + 8 :], UPRIGHT) == 0


def test_orientation_set_in_memory():
    picture = TURNED.copy()
    picture.getexif()[274] = 6
    assert difference(picture, UPRIGHT) == 0
    assert difference(load_image(encoded(TURNED, "PNG", exif=exif(orientation()))), UPRIGHT) == 0
