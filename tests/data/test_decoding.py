"""Pixels of a conversation: what its media become, in whatever process, and why some do not."""

import io
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from owl_jax.data.decoding import Decoding, Media, Pixels, decode, make_executor
from owl_jax.data.drops import Dropped
from owl_jax.data.sources.record import FilePart
from owl_jax.media.augment import Augmentation
from owl_jax.media.image import load_image, preprocess_image

SIZE = 16


def photograph(width=60, height=40):
    values = np.random.default_rng(width).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def media(*images, videos=(), number=3, keep_places=False):
    return Media(number, images, videos, keep_places, "data.jsonl:7")


def test_words_alone_have_no_pixels():
    pixels = decode(Decoding(SIZE, frames=2), media())
    assert pixels.images.shape == (0, SIZE, SIZE, 3)
    assert pixels.videos.shape == (0, 2, SIZE, SIZE, 3)
    assert pixels.images.dtype == pixels.videos.dtype == np.uint8


def test_pictures_are_what_inference_makes_of_them(tmp_path):
    data = encoded(photograph())
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b.bin").write_bytes(b"before" + data + b"after")
    part = FilePart(tmp_path / "b.bin", 6, len(data), "a part")
    frames = [encoded(photograph(50 + n), "PNG") for n in range(3)]
    expected = preprocess_image(load_image(data), SIZE)
    pixels = decode(
        Decoding(SIZE, frames=2),
        media(tmp_path / "a.jpg", data, part, Image.open(io.BytesIO(data)), videos=[frames]),
    )
    assert pixels.images.shape == (4, SIZE, SIZE, 3)
    for image in pixels.images:
        np.testing.assert_array_equal(image, expected)
    assert pixels.videos.shape == (1, 2, SIZE, SIZE, 3)
    np.testing.assert_array_equal(pixels.videos[0, 0], preprocess_image(load_image(frames[0]), 16))


def test_the_augmentation_is_of_the_example_and_the_seed(tmp_path):
    data = encoded(photograph())

    def pixels(seed=0, number=3):
        settings = Decoding(SIZE, augmentation=Augmentation(rand_augment=True), seed=(seed,))
        return decode(settings, media(data, number=number)).images

    np.testing.assert_array_equal(pixels(), pixels())
    assert any(not np.array_equal(pixels(), pixels(seed=seed)) for seed in range(1, 4))
    assert any(not np.array_equal(pixels(), pixels(number=number)) for number in range(4, 7))


def test_a_picture_of_which_the_words_tell_sides_stays_as_it_is():
    data = encoded(photograph())
    plain = preprocess_image(load_image(data), SIZE)
    moved = 0
    for number in range(20):
        settings = Decoding(SIZE, augmentation=Augmentation())
        told = decode(settings, media(data, number=number, keep_places=True)).images[0]
        np.testing.assert_array_equal(told, plain)
        other = decode(settings, media(data, number=number)).images[0]
        moved += not np.array_equal(other, plain)
    assert moved >= 18


def test_the_fast_decoder_is_nearly_the_exact_one():
    data = encoded(photograph(640, 480), quality=90)
    exact, fast = (
        decode(Decoding(64, decoder=decoder), media(data)).images.astype(int)
        for decoder in ("exact", "fast")
    )
    assert 0 < np.abs(exact - fast).max() < 40
    assert np.abs(exact - fast).mean() < 2


@pytest.mark.parametrize(
    ("medium", "reason"),
    [
        (b"I am no picture.", "not a picture"),
        (encoded(photograph())[:500], "damaged picture"),
        (encoded(photograph().convert("CMYK")), "CMYK picture"),
        (encoded(Image.fromarray(np.full((8, 8), 999, np.uint16)), "PNG"), "16-bit picture"),
        (
            encoded(photograph(), "GIF", save_all=True, append_images=[photograph(61)]),
            "animated picture",
        ),
    ],
)
def test_media_that_cannot_be_used_drop_the_conversation(medium, reason):
    good = encoded(photograph())
    dropped = decode(Decoding(SIZE), media(good, medium))
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.where) == (reason, "data.jsonl:7")


def test_unusual_pictures_are_converted_if_asked():
    for medium in (
        encoded(photograph().convert("CMYK")),
        encoded(Image.fromarray(np.full((8, 8), 999, np.uint16)), "PNG"),
    ):
        assert isinstance(decode(Decoding(SIZE, unusual="convert"), media(medium)), Pixels)


def test_a_video_without_frames_drops_the_conversation(tmp_path):
    (tmp_path / "frames").mkdir()
    dropped = decode(Decoding(SIZE, frames=2), media(videos=[tmp_path / "frames"]))
    assert dropped.reason == "video without frames"


def test_threads_or_processes():
    with make_executor(2, 0) as threads, make_executor(2, 1) as processes:
        assert isinstance(threads, ThreadPoolExecutor)
        assert isinstance(processes, ProcessPoolExecutor)
        settings, task = Decoding(SIZE), media(encoded(photograph()))
        here, there = (pool.submit(decode, settings, task) for pool in (threads, processes))
        np.testing.assert_array_equal(here.result().images, there.result().images)


def test_a_worker_does_not_load_jax():
    script = "import sys, owl_jax.data.decoding; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
