"""Identifies a file by its first bytes, for messages about unexpected files.

Examples: the web page of a login that a download required, a Git LFS pointer, a phone's HEIC
photograph with the suffix .jpg. The message names the format and says what to do.

The signatures are from the formats' specifications.
"""

from typing import NamedTuple

HEAD = 1024  # bytes that `identify` needs

_TO_JPEG = "convert it to JPEG"
_TO_PNG = "export it as PNG"
_AS_VIDEO = "give it as a video"


class Found(NamedTuple):
    """An identified format.

    name: with its article, "a HEIC photograph". advice: what to do, "" for none. kind: "picture"
    (an unsupported format of still images), "video" or "other".
    """

    name: str
    advice: str = ""
    kind: str = "other"


_ZIP = Found("a zip archive (or an office document)", "unpack it")
_ARCHIVE = Found("a compressed archive", "unpack it")
_RAW = Found("a camera's raw photograph", _TO_JPEG, "picture")
_JXL = Found("a JPEG XL picture", "convert it to JPEG or PNG", "picture")
_MPEG = Found("an MPEG video", _AS_VIDEO, "video")
_SOUND = Found("a sound file", "only pictures, videos and text are read")

# (offset, bytes there, format); the first match counts.
_SIGNATURES: tuple[tuple[int, bytes, Found], ...] = (
    (0, b"\xff\x0a", _JXL),
    (4, b"JXL \r\n\x87\n", _JXL),
    (0, b"8BPS", Found("a Photoshop document", _TO_PNG, "picture")),
    (0, b"gimp xcf", Found("a GIMP document", _TO_PNG, "picture")),
    (0, b"%PDF", Found("a PDF document", "export its pages as PNG")),
    (0, b"%!PS", Found("a PostScript file", _TO_PNG)),
    (0, b"\xc5\xd0\xd3\xc6", Found("a PostScript file", _TO_PNG)),
    (0, b"\xd7\xcd\xc6\x9a", Found("a Windows metafile", _TO_PNG, "picture")),
    (40, b" EMF", Found("a Windows metafile", _TO_PNG, "picture")),
    (0, b"\0\0\1\0", Found("a Windows icon", _TO_PNG, "picture")),
    (0, b"icns", Found("an Apple icon", _TO_PNG, "picture")),
    (0, b"DDS ", Found("a DDS texture", _TO_PNG, "picture")),
    (0, b"qoif", Found("a QOI picture", _TO_PNG, "picture")),
    (0, b"\x76\x2f\x31\x01", Found("an OpenEXR picture", _TO_PNG, "picture")),
    (0, b"#?RADIANCE", Found("a Radiance HDR picture", _TO_PNG, "picture")),
    (0, b"SIMPLE  =", Found("a FITS picture", _TO_PNG, "picture")),
    (128, b"DICM", Found("a DICOM picture", _TO_PNG, "picture")),
    (0, b"\x01\xda", Found("an SGI picture", _TO_PNG, "picture")),
    (0, b"\x0a\x05\x01\x08", Found("a PCX picture", _TO_PNG, "picture")),
    (0, b"BPG\xfb", Found("a BPG picture", _TO_PNG, "picture")),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (0, b"FOVb", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIRS", _RAW),
    (0, b"MMOR", _RAW),
    (0, b"IIU\0", _RAW),
    (0, b"\0MRM", _RAW),
    (0, b"\x1aE\xdf\xa3", Found("a Matroska or WebM video", _AS_VIDEO, "video")),
    (8, b"AVI ", Found("an AVI video", _AS_VIDEO, "video")),
    (8, b"WAVE", _SOUND),
    (0, b"FLV\1", Found("a Flash video", _AS_VIDEO, "video")),
    (0, b"0&\xb2u\x8ef\xcf\x11", Found("a Windows Media video", _AS_VIDEO, "video")),
    (0, b"\0\0\1\xba", _MPEG),
    (0, b"\0\0\1\xb3", _MPEG),
    (0, b"OggS", Found("an Ogg video or sound", _AS_VIDEO, "video")),
    (0, b"ID3", _SOUND),
    (0, b"fLaC", _SOUND),
    (0, b"PK\3\4", _ZIP),
    (0, b"PK\5\6", _ZIP),
    (0, b"\x1f\x8b", _ARCHIVE),
    (0, b"BZh", _ARCHIVE),
    (0, b"\xfd7zXZ\0", _ARCHIVE),
    (0, b"(\xb5/\xfd", _ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", _ARCHIVE),
    (0, b"Rar!", _ARCHIVE),
    (257, b"ustar", Found("a tar archive", "name it as the source")),
    (0, b"\x93NUMPY", Found("a NumPy array", "save it as PNG")),
    (0, b"\x89HDF\r\n", Found("an HDF5 file")),
    (0, b"PAR1", Found("a parquet file", "name it as the source")),
    (0, b"SQLite format 3", Found("an SQLite database")),
    (0, b"\x7fELF", Found("a program")),
)

# Brands of ISO base media files (MP4 Registration Authority).
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC = Found("a HEIC photograph", _TO_JPEG, "picture")

# Beginnings of text files, in lower case.
_TEXTS: tuple[tuple[bytes, Found], ...] = (
    (b"version https://git-lfs", Found("a Git LFS pointer", "run `git lfs pull`")),
    (b"/annex/objects/", Found("a git-annex pointer", "run `git annex get`")),
    (b"#extm3u", Found("a playlist", "give the videos themselves")),
    (b"ffconcat", Found("a playlist", "give the videos themselves")),
    (b"[playlist]", Found("a playlist", "give the videos themselves")),
    (b"v=0", Found("a description of a stream (SDP)", "give the video itself")),
    (b"<!doctype html", Found("a web page", "download the file itself")),
    (b"<html", Found("a web page", "download the file itself")),
    (b"<head", Found("a web page", "download the file itself")),
    (b"<svg", Found("an SVG drawing", _TO_PNG, "picture")),
    (b"/* xpm", Found("an XPM picture", _TO_PNG, "picture")),
    (b"#define", Found("an XBM picture or C source", _TO_PNG, "picture")),
    (b"{", Found("JSON")),
    (b"[", Found("JSON")),
)


def identify(head: bytes, tail: bytes = b"") -> Found | None:
    """The format of a file that begins with `head`; None if it is unknown.

    head: HEAD bytes, or the whole file. tail: the last 18 bytes, where TGA has its signature.
    """
    if not head:
        return Found("an empty file")
    if not head.strip(b"\0"):
        return Found("a file of zeros", "download or copy it again")
    if head[4:8] == b"ftyp":
        return _identify_iso(head)
    for offset, magic, found in _SIGNATURES:
        if head.startswith(magic, offset):
            return found
    if len(head) > 188 and head[0] == head[188] == 0x47:
        return _MPEG
    if tail.startswith(b"TRUEVISION-XFILE."):
        return Found("a TGA picture", _TO_PNG, "picture")
    return _identify_text(head)


def is_avif(head: bytes) -> bool:
    """Whether a file begins as an AVIF picture or animation."""
    return head[4:8] == b"ftyp" and any(brand in _brands(head) for brand in _AVIF_BRANDS)


def _brands(head: bytes) -> list[bytes]:
    """The major brand of an ISO base media file, then its compatible brands."""
    box = head[: min(int.from_bytes(head[:4], "big"), len(head))]
    return [box[8:12], *(box[i : i + 4] for i in range(16, len(box) - 3, 4))]


def _identify_iso(head: bytes) -> Found | None:
    brands = _brands(head)
    if is_avif(head):
        return None  # a supported format: this file is damaged
    if brands[0] == b"crx ":
        return _RAW
    if any(brand in _HEIC_BRANDS for brand in brands) or brands[0] in (b"mif1", b"msf1"):
        return _HEIC
    if brands[0] in (b"M4A ", b"M4B "):
        return _SOUND
    return Found("an MP4 or QuickTime video", _AS_VIDEO, "video")


def _identify_text(head: bytes) -> Found | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Found("a text file")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lowered = start.lower()
    for magic, found in _TEXTS:
        if lowered.startswith(magic):
            return found
    if lowered.startswith((b"<?xml", b"<!--", b"<!doctype")):
        for magic, found in _TEXTS:
            if magic.startswith(b"<") and magic in lowered:
                return found
        return Found("an XML file")
    try:
        # The last character may be truncated.
        text = start[:-3].decode("utf-8", "strict") if len(head) >= HEAD else start.decode("utf-8")
    except UnicodeDecodeError:
        return None
    has_controls = any(ord(c) < 32 and c not in "\t\n\r\f" for c in text)
    return None if has_controls else Found("a text file")
