"""Messages name the format of unexpected files, given as an image and as a video."""

import io
import struct
import zipfile

import pytest
from PIL import Image

from owl_jax.errors import BadData
from owl_jax.media.image import load_image
from owl_jax.media.signatures import identify, is_avif
from owl_jax.media.video import load_video


def encoded(kind, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, kind, **options)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", b"x")
    return buffer.getvalue()


def ftyp(*brands) -> bytes:
    body = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", 4 + len(body)) + body + bytes(200)


# Pictures of a format that is not read, and what the message says.
UNREAD = {
    "heic": (ftyp(b"heic", b"mif1", b"heic"), "a HEIC photograph.*convert it to JPEG"),
    "heic of another brand": (ftyp(b"mif1", b"heic"), "a HEIC photograph"),
    "jxl": (b"\xff\x0a" + bytes(90), "a JPEG XL picture"),
    "jxl in boxes": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(90), "a JPEG XL picture"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "svg with a head": (b'<?xml version="1.0"?>\n<!-- x -->\n<svg width="9"/>', "an SVG drawing"),
    "psd": (b"8BPS\0\1" + bytes(90), "a Photoshop document"),
    "ico": (encoded("ICO"), "a Windows icon"),
    "dds": (b"DDS " + bytes(120), "a DDS texture"),
    "wmf": (b"\xd7\xcd\xc6\x9a" + bytes(90), "a Windows metafile"),
    "raw of Canon": (ftyp(b"crx ", b"isom"), "a camera's raw photograph"),
    "raw of Fujifilm": (b"FUJIFILMCCD-RAW 0201" + bytes(90), "a camera's raw photograph"),
}
# What is no picture and no video.
NEITHER = {
    "web page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "JSON": (b'{"error": "rate limit"}', "JSON"),
    "zip": (zipped(), "a zip archive"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(90), "a compressed archive"),
    "PDF": (b"%PDF-1.7\n" + bytes(90), "a PDF document.*export its pages as PNG"),
    "empty": (b"", "an empty file"),
    "zeros": (bytes(9000), "a file of zeros"),
    "text": ("Füchse und Eulen".encode(), "a text file"),
    "XML": (b"<?xml version='1.0'?><a/>", "an XML file"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_unsupported_image_formats_are_named(tmp_path, name):
    data, named = UNREAD[name]
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for source in (path, data):
        for load in (load_image, lambda source: load_video(source, 2, 16)):
            with pytest.raises(BadData, match=named) as error:
                load(source)
            assert error.value.reason == "unsupported format"
            assert "not a picture" not in str(error.value)


@pytest.mark.parametrize("name", NEITHER)
def test_other_files_are_named(tmp_path, name):
    data, named = NEITHER[name]
    path = tmp_path / "file.jpg"
    path.write_bytes(data)
    for load, noun in ((load_image, "picture"), (lambda x: load_video(x, 2, 16), "video")):
        with pytest.raises(BadData, match=rf"file\.jpg: not a {noun} but .*{named}") as error:
            load(path)
        assert error.value.reason == f"not a {noun}"


def test_tga_is_known_by_its_end():
    with pytest.raises(BadData, match="a TGA picture"):
        load_image(encoded("TGA"))


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (ftyp(b"isom", b"avc1"), "an MP4 or QuickTime video"),
        (b"\x1aE\xdf\xa3" + bytes(90), "a Matroska or WebM video"),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(90), "an AVI video"),
        (b"\0\0\1\xba" + bytes(90), "an MPEG video"),
        ((b"\x47" + bytes(187)) * 3, "an MPEG video"),
    ],
)
def test_video_given_as_a_picture_is_named(head, named):
    with pytest.raises(BadData, match=f"not a picture but {named}; give it as a video"):
        load_image(head)


def test_unknown_formats_are_not_named():
    assert identify(bytes(range(128, 256)) * 9) is None
    assert identify(b"\x1b[31mred") is None
    with pytest.raises(BadData, match="not a picture; expected BMP"):
        load_image(bytes(range(128, 256)) * 9)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "MPO"])
def test_recent_formats_are_read(tmp_path, kind):
    source = encoded(kind)
    assert load_image(source, unusual="refuse").getpixel((8, 8))[0] > 250
    frames = load_video(source, 2, 16)
    assert frames.shape == (2, 16, 16, 3) and frames[..., 0].min() > 250
    assert is_avif(source) == (kind == "AVIF")


def test_avif_sequence_is_an_animation():
    buffer = io.BytesIO()
    first, *rest = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")]
    first.save(buffer, "AVIF", save_all=True, append_images=rest)
    frames = load_video(buffer.getvalue(), 3, 16)
    assert [frame.argmax() for frame in frames.mean((1, 2))] == [0, 1, 1]
    with pytest.raises(BadData) as error:
        load_image(buffer.getvalue(), unusual="refuse")
    assert error.value.reason == "animated picture"
