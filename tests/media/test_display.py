"""Display matrices rotate and flip frames; transparent frames are on white."""

import io
import struct

import av
import numpy as np
import pytest
from PIL import Image

from owl_jax.errors import BadData
from owl_jax.media.display import apply_display_matrix, rotation_matrix
from owl_jax.media.video import load_frames

ONE = 0x10000
HEIGHT, WIDTH = 48, 64
# Four colours in the corners tell all eight orientations apart.
CORNERS = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
CORNERS[:24, :32], CORNERS[:24, 32:], CORNERS[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
CORNERS[24:, 32:] = 255

# (a, b, c, d) of the matrix, and what it does to an array of rows and columns.
ORIENTATIONS = [
    ((1, 0, 0, 1), lambda x: x),
    ((-1, 0, 0, 1), np.fliplr),
    ((1, 0, 0, -1), np.flipud),
    ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
    ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
    ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    ((0, -1, 1, 0), np.rot90),
    ((0, -1, -1, 0), lambda x: np.rot90(x, 2).transpose(1, 0, 2)),
]


def write_video(pixels, name, codec, pixel_format, input_format="rgb24", **options) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=name) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], pixel_format
        stream.options = options
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(pixels, format=input_format)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def movie() -> bytes:
    return write_video(CORNERS, "mp4", "libx264", "yuv444p", qp="0")


def with_matrix(movie, a, b, c, d) -> bytes:
    """The movie with another matrix in its track's header (ISO 14496-12, tkhd)."""
    at = movie.index(b"tkhd") + 4 + 40
    values = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return movie[:at] + values + movie[at + 36 :]


@pytest.mark.parametrize(("matrix", "shown"), ORIENTATIONS)
def test_every_orientation_of_a_display_matrix_is_applied(movie, matrix, shown):
    turned = load_frames(with_matrix(movie, *(ONE * value for value in matrix)), 2)
    upright = np.asarray(load_frames(movie, 1)[0])
    for frame in turned:
        np.testing.assert_array_equal(np.asarray(frame), shown(upright))


@pytest.mark.parametrize(("matrix", "shown"), ORIENTATIONS)
@pytest.mark.parametrize("about", [(0.7, 0.7), (3.0, 0.2)])
def test_scaled_and_sheared_matrices_give_the_nearest_orientation(matrix, shown, about):
    lean = np.array([[1, 0.3], [-0.2, 1]]) * about
    a, b, c, d = np.round((lean @ np.reshape(matrix, (2, 2))).ravel() * ONE).astype(int).tolist()
    values = struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    turned = apply_display_matrix(Image.fromarray(CORNERS), values)
    np.testing.assert_array_equal(np.asarray(turned), shown(CORNERS))


@pytest.mark.parametrize(
    "matrix", [(0, 0, 0, 0), (ONE, ONE, 0, 0), (5, 5, 5, 5), (2**31 - 1,) * 4, (0, 0, 0, ONE)]
)
def test_singular_matrix_changes_nothing(movie, matrix):
    frames = load_frames(with_matrix(movie, *matrix), 1)
    np.testing.assert_array_equal(np.asarray(frames[0]), np.asarray(load_frames(movie, 1)[0]))
    picture = Image.fromarray(CORNERS)
    assert apply_display_matrix(picture, b"cut") is picture


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, -90])
def test_rotation_matrix(degrees):
    picture = Image.fromarray(CORNERS)
    turned = apply_display_matrix(picture, rotation_matrix(degrees))
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(CORNERS, degrees // 90))


ALPHA_FILES = [
    ("webm", "libvpx-vp9", "yuva420p", {}),
    ("webm", "libvpx", "yuva420p", {"auto-alt-ref": "0"}),
    ("mov", "prores_ks", "yuva444p10le", {"profile": "4444"}),
    ("mov", "png", "rgba", {}),
    ("mov", "qtrle", "argb", {}),
    ("matroska", "ffv1", "bgra", {}),
]


@pytest.mark.parametrize(("name", "codec", "pixel_format", "options"), ALPHA_FILES)
def test_transparent_video_is_on_white(name, codec, pixel_format, options):
    """Black below transparency, with a red square that is opaque."""
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[16:32, 16:48] = (255, 0, 0, 255)
    movie = write_video(pixels, name, codec, pixel_format, "rgba", **options)
    for frame in load_frames(movie, 2):
        assert min(frame.getpixel((3, 3))) > 245
        red, green, blue = frame.getpixel((32, 24))
        assert red > 200 and max(green, blue) < 60


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "GIF"])
def test_transparent_animation_is_on_white(kind):
    frames = []
    for at in (0, 20):
        frame = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
        frame.paste((255, 0, 0, 255), (at, 0, at + 20, 20))
        frames.append(frame)
    buffer = io.BytesIO()
    options = {"disposal": 2} if kind == "GIF" else {}
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], lossless=True, **options)
    first, *_, second = load_frames(buffer.getvalue(), 4)
    for frame, red, white in ((first, 5, 35), (second, 35, 5)):
        assert frame.getpixel((red, 10)) == (255, 0, 0)
        assert frame.getpixel((white, 10)) == (255, 255, 255)


def test_orientation_of_a_photograph_given_as_a_video():
    exif = Image.Exif()
    exif[274] = 5
    buffer = io.BytesIO()
    Image.fromarray(CORNERS).save(buffer, "JPEG", exif=exif, quality=95, subsampling=0)
    frame = np.asarray(load_frames(buffer.getvalue(), 2)[1]).astype(int)
    assert np.abs(frame - CORNERS.transpose(1, 0, 2)).mean() < 4


def test_cover_art_is_not_a_video():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp3") as container:
        sound = container.add_stream("libmp3lame", rate=44_100, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(CORNERS, format="rgb24")
        container.mux(cover.encode(picture))
        container.mux(cover.encode())
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4410), np.float32), "fltp", "mono")
        samples.sample_rate = 44_100
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
    with av.open(io.BytesIO(buffer.getvalue())) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(BadData) as error:
        load_frames(buffer.getvalue(), 1)
    assert error.value.reason == "video without frames"
