"""Records as the bytes of a shard: media proven and stored as they were."""

import io

import msgpack
import numpy as np
import pytest
import source_files
from PIL import Image

from owl_jax.data.shards.payload import Reencoding, pack
from owl_jax.data.sources.record import FilePart
from owl_jax.errors import BadData


def _record(images=(), videos=()):
    return {
        "text": "x",
        "images": list(images),
        "videos": list(videos),
        "task_type": "vqa",
        "where": "data.jsonl:3",
    }


def _packed(*args, reencoding=None):
    return msgpack.unpackb(pack(_record(*args), reencoding))


def test_words_and_place():
    assert _packed() == _record()


def test_a_place_with_bytes_that_are_no_letters():
    record = _record() | {"where": b"\xff.jpg".decode("utf-8", "surrogateescape")}
    assert msgpack.unpackb(pack(record))["where"] == "\\udcff.jpg"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_pictures_keep_their_bytes(tmp_path, format):
    data = source_files.picture(1, format)
    (tmp_path / "x").write_bytes(b"before" + data + b"after")
    (tmp_path / "y").write_bytes(data)
    part = FilePart(tmp_path / "x", 6, len(data), "y")
    assert _packed([data, tmp_path / "y", part])["images"] == [data] * 3


def test_a_picture_that_was_no_file_becomes_png():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    (data,) = _packed([Image.fromarray(pixels)])["images"]
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_videos_are_files_or_frames(tmp_path):
    movie = source_files.movie(tmp_path / "x.mp4")
    frames = [source_files.picture(n) for n in range(3)]
    names = ("f9.jpg", "f10.jpg", "f11.jpg")
    source_files.write_files(tmp_path / "frames", dict(zip(names, frames, strict=True)))
    gif = io.BytesIO()
    stills = [Image.open(io.BytesIO(frame)) for frame in frames]
    stills[0].save(gif, "GIF", save_all=True, append_images=stills[1:])
    part = FilePart(tmp_path / "x.mp4", 0, len(movie), "x.mp4")
    videos = [tmp_path / "x.mp4", movie, part, tmp_path / "frames", frames, gif.getvalue()]
    packed = _packed([], videos)["videos"]
    assert packed == [movie, movie, movie, frames, frames, gif.getvalue()]


def test_reencoding_makes_jpeg_and_scales_down():
    photo = source_files.picture(1, "PNG", (400, 200))
    small = source_files.picture(2, "JPEG", (40, 20))
    plain = _packed([photo], reencoding=Reencoding(95))["images"][0]
    image = Image.open(io.BytesIO(plain))
    assert (image.format, image.size) == ("JPEG", (400, 200))
    expected = np.asarray(Image.open(io.BytesIO(photo)), np.int32)
    assert np.abs(np.asarray(image, np.int32) - expected).mean() < 3
    packed = _packed([photo, small], [[photo, small]], reencoding=Reencoding(50, 100))
    files = [*packed["images"], *packed["videos"][0]]
    sizes = [Image.open(io.BytesIO(file)).size for file in files]
    assert sizes == [(100, 50), (40, 20)] * 2
    assert len(_packed([photo], reencoding=Reencoding(30))["images"][0]) < len(plain)


def test_reencoding_leaves_video_files(tmp_path):
    movie = source_files.movie(tmp_path / "x.mp4")
    packed = _packed([], [tmp_path / "x.mp4"], reencoding=Reencoding(50, 16))
    assert packed["videos"] == [movie]


def _upside_down():
    image = Image.open(io.BytesIO(source_files.picture(1, "PNG", (30, 20))))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_a_reencoded_picture_is_upright():
    (data,) = _packed([_upside_down()], reencoding=Reencoding(95))["images"]
    assert Image.open(io.BytesIO(data)).size == (20, 30)


def test_unusual_pictures_are_kept():
    cmyk = io.BytesIO()
    Image.new("CMYK", (8, 8), (9, 99, 0, 0)).save(cmyk, "JPEG")
    assert _packed([cmyk.getvalue()])["images"] == [cmyk.getvalue()]


@pytest.mark.parametrize("reencoding", [None, Reencoding(90, 100)])
def test_broken_media_are_found(tmp_path, reencoding):
    picture = source_files.picture(1, size=(200, 200))
    movie = source_files.movie(tmp_path / "x.mp4")
    source_files.write_files(
        tmp_path, {"cut.jpg": picture[:-300], "words.jpg": "words", "cut.mp4": movie[:-500]}
    )
    (tmp_path / "empty").mkdir()
    source_files.write_files(tmp_path / "half", {"1.jpg": picture, "2.jpg": picture[:-300]})
    cases = [
        ([tmp_path / "none.jpg"], [], "missing file", "none.jpg"),
        ([tmp_path / "cut.jpg"], [], "damaged picture", "cut.jpg"),
        ([picture[:-300]], [], "damaged picture", "the picture"),
        ([tmp_path / "words.jpg"], [], "not a picture", "words.jpg"),
        ([FilePart(tmp_path / "cut.jpg", 9, 99_999, "z")], [], "truncated file", "z"),
        ([], [tmp_path / "cut.mp4"], "damaged video", "cut.mp4"),
        ([], [tmp_path / "none.mp4"], "missing file", "none.mp4"),
        ([], [tmp_path / "empty"], "video without frames", "a video"),
        ([], [[]], "video without frames", "a video"),
        ([], [tmp_path / "half"], "damaged picture", "2.jpg"),
    ]
    for images, videos, reason, name in cases:
        with pytest.raises(BadData) as error:
            pack(_record(images, videos), reencoding)
        assert error.value.reason == reason
        assert str(error.value).startswith("data.jsonl:3: ") and name in str(error.value)
