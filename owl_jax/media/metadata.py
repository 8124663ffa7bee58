"""Reads an image's orientation; strips all other metadata from files that Pillow cannot read.

Cameras, editors and servers write damaged EXIF, XMP, colour profiles and comments. They must not
make an image unusable, so the orientation has a tolerant reader of its own, and if Pillow fails on
the rest, the file is read again without metadata.

Sources: EXIF 2.32 (tag 0x0112; the TIFF 6.0 directory around it), PNG (third edition) chunks,
JPEG (ITU-T T.81) markers, WebP's RIFF chunks.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress

from PIL import ExifTags, Image

_ORIENTATION = ExifTags.Base.Orientation
_EXIF = b"Exif\0\0"

# EXIF orientation -> the operation that makes the image upright; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Keys of Image.info with an orientation: EXIF, its hexadecimal form in PNG (ImageMagick), XMP.
_HEXADECIMAL = "Raw profile type exif"
_XMP = ("XML:com.adobe.xmp", "xmp")
_ORIENTATION_KEYS = ("exif", _HEXADECIMAL, *_XMP)
_IN_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")

# The integer types of a TIFF directory: BYTE, SHORT, LONG.
_INTEGERS = {1: "B", 3: "H", 4: "I"}

_PNG = b"\x89PNG\r\n\x1a\n"
# Pixels, colours and animation.
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT")
_PNG_ANIMATION = {b"acTL": range(8, 9), b"fcTL": range(26, 27), b"fdAT": range(4, 1 << 31)}  # sizes
# An item info entry: its box, version and flags, number and protection, type.
_AVIF_EXIF = re.compile(rb"(infe[\x02][\s\S]{7})Exif")
_WEBP_KEPT = (b"VP8X", b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF")
_WEBP_HAS_METADATA = 0x20 | 0x08 | 0x04  # flags of VP8X: ICC profile, EXIF, XMP


def turn_upright(image: Image.Image) -> Image.Image:
    """Rotates a loaded image by its orientation; the same object if it is upright.

    An orientation that is unreadable or not one of the eight counts as upright.
    """
    method = _UPRIGHT.get(_orientation_of(image) or 1)
    if method is None:
        return image
    upright = image.transpose(method)
    for key in _ORIENTATION_KEYS:  # no longer true
        upright.info.pop(key, None)
    return upright


def exif_orientation(exif: bytes) -> int | None:
    """The orientation, 1 to 8, of an EXIF block; None if it is missing or invalid.

    Ignores all other entries, which may be damaged.
    """
    block = exif
    while block.startswith(_EXIF):
        block = block[len(_EXIF) :]
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    with suppress(struct.error):
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", block, entry)
            if tag == _ORIENTATION:
                # An entry holds at most two SHORT.
                if kind not in _INTEGERS or number not in (1, 2):
                    return None
                (value,) = struct.unpack_from(order + _INTEGERS[kind], block, entry + 8)
                return value if 1 <= value <= 8 else None
    return None


def without_metadata(data: bytes) -> bytes | None:
    """A PNG, JPEG, WebP or AVIF file without metadata except its orientation; None for others.

    Everything else is kept unchanged, even if it is damaged.
    """
    if data.startswith(_PNG):
        return _strip_png(data)
    if data.startswith(b"\xff\xd8"):
        return _strip_jpeg(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _strip_webp(data)
    if data[4:8] == b"ftyp":
        # The EXIF item gets a type that readers ignore. AVIF's orientation is in other boxes.
        return _AVIF_EXIF.sub(rb"\1skip", data, count=1)
    return None


def _orientation_of(image: Image.Image) -> int | None:
    """The stored orientation of a loaded image; Pillow makes a TIFF upright on loading."""
    info = image.info
    exif = info.get("exif")
    if not isinstance(exif, bytes) and isinstance(info.get(_HEXADECIMAL), str):
        with suppress(ValueError):  # the digits follow "exif" and the number of bytes
            exif = bytes.fromhex("".join(info[_HEXADECIMAL].split()[2:]))
    found = exif_orientation(exif) if isinstance(exif, bytes) else None
    for key in _XMP:
        text = info.get(key)
        if found is None and isinstance(text, str | bytes):
            match = _IN_XMP.search(text.encode() if isinstance(text, str) else text)
            found = int(match[1]) if match else None
    if found is None and image.format is None and not exif:
        found = image.getexif().get(_ORIENTATION)  # set in memory
    return found if isinstance(found, int) else None


def _minimal_exif(found: int | None) -> bytes:
    """An EXIF block with only the orientation, without the Exif marker; b"" if it is upright."""
    if found is None or found == 1:
        return b""
    entry = struct.pack(">HHIHH", _ORIENTATION, 3, 1, found, 0)
    return b"MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)


def _strip_png(data: bytes) -> bytes:
    kept: list[bytes] = []
    exif, chunks = b"", list(_png_chunks(data))
    has_sizes = all(len(c) in _PNG_ANIMATION.get(kind, [len(c)]) for kind, c, _ in chunks)
    if not has_sizes or b"acTL" not in (kind for kind, _, _ in chunks):
        # Viewers show the default image of a damaged animation.
        chunks = [item for item in chunks if item[0] not in _PNG_ANIMATION]
    for kind, content, chunk in chunks:
        if kind == b"eXIf":
            exif = exif or content
        # Viewers ignore damaged chunks only if they are optional.
        elif kind in _PNG_KEPT and (
            kind[:1].isupper() or _is_valid_chunk(kind, content, chunk, data)
        ):
            kept.append(chunk)
    block = _minimal_exif(exif_orientation(exif))
    if block:
        kept.insert(1, _png_chunk(b"eXIf", block))
    return _PNG + b"".join(kept)


def _is_valid_chunk(kind: bytes, content: bytes, chunk: bytes, data: bytes) -> bool:
    """Whether a chunk's checksum is right, and for transparency also its size.

    The size depends on the header's colour type: one grey, one colour, or a byte per palette entry.
    """
    sizes = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}.get(data[25], range(0))
    return _png_chunk(kind, content) == chunk and (kind != b"tRNS" or len(content) in sizes)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(kind, content, the whole chunk) of each chunk."""
    at = len(_PNG)
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size], data[at : at + 12 + size]
        at += 12 + size


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _strip_jpeg(data: bytes) -> bytes:
    kept, exif, at = [], b"", 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == 0xDA or 0xD0 <= marker <= 0xD9 or marker == 1:
            break  # the pixels follow
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        content = data[at + 4 : at + 2 + size]
        if marker == 0xE1 and content.startswith(_EXIF):
            exif = exif or content
        # JFIF's and Adobe's segments define the colour coding.
        elif (
            (marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14)
            or (marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12)
            or not (0xE0 <= marker <= 0xEF or marker == 0xFE)
        ):
            kept.append(data[at : at + 2 + size])
        at += 2 + max(size, 2)
    block = _minimal_exif(exif_orientation(exif))
    if block:
        block = b"\xff\xe1" + struct.pack(">H", 2 + len(_EXIF + block)) + _EXIF + block
    return b"\xff\xd8" + block + b"".join(kept) + data[at:]


def _strip_webp(data: bytes) -> bytes:
    kept, exif, at = [], b"", 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        content = data[at + 8 : at + 8 + size]
        if kind == b"EXIF":
            exif = exif or content
        elif kind == b"VP8X" and content:
            kept.append(kind + data[at + 4 : at + 8] + _without_flags(content))
        elif kind in _WEBP_KEPT:
            kept.append(data[at : at + 8 + size + size % 2])
        at += 8 + size + size % 2
    block = _minimal_exif(exif_orientation(exif))
    if block and kept and kept[0].startswith(b"VP8X"):
        flags = kept[0][8] | 0x08
        kept[0] = kept[0][:8] + bytes([flags]) + kept[0][9:]
        kept.append(b"EXIF" + struct.pack("<I", len(block)) + block + bytes(len(block) % 2))
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _without_flags(header: bytes) -> bytes:
    return bytes([header[0] & ~_WEBP_HAS_METADATA]) + header[1:]
