"""Ways to a square, on small pictures whose pixels can be computed by hand."""

import numpy as np
import pytest
from PIL import Image

from owl_jax.media.resizing import Resizing

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def stripes(*colours, side=8):
    """A picture of squares of one colour each, beside one another."""
    return np.concatenate([np.full((side, side, 3), c, np.uint8) for c in colours], axis=1)


def square(array, size, **settings):
    return np.asarray(Resizing(**settings).square(Image.fromarray(array), size))


def test_squash_keeps_everything():
    result = square(stripes(RED, GREEN, BLUE, side=9), 9, kind="squash")
    np.testing.assert_array_equal(result[4, [0, 4, 8]], [RED, GREEN, BLUE])


@pytest.mark.parametrize("is_tall", [False, True])
def test_crop_keeps_the_centre(is_tall):
    picture = stripes(RED, GREEN, BLUE)
    result = square(picture.swapaxes(0, 1) if is_tall else picture, 8, kind="crop")
    np.testing.assert_array_equal(result, stripes(GREEN))


@pytest.mark.parametrize("is_tall", [False, True])
def test_pad_centres_the_picture_on_the_fill(is_tall):
    fill = (1, 2, 3)
    picture = stripes(RED, GREEN)
    result = square(picture.swapaxes(0, 1) if is_tall else picture, 16, kind="pad", fill=fill)
    result = result.swapaxes(0, 1) if is_tall else result
    np.testing.assert_array_equal(result[:4], np.broadcast_to(fill, (4, 16, 3)))
    np.testing.assert_array_equal(result[4:12], picture)
    np.testing.assert_array_equal(result[12:], np.broadcast_to(fill, (4, 16, 3)))


def test_a_square_is_the_same_every_way():
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    ways = [square(picture, 12, kind=kind) for kind in ("squash", "pad", "crop")]
    np.testing.assert_array_equal(ways[0], ways[1])
    np.testing.assert_array_equal(ways[0], ways[2])
    assert (ways[0] != square(picture, 12, filter="bilinear")).any()


@pytest.mark.parametrize("kind", ["pad", "crop"])
def test_a_long_thin_picture_is_not_blown_up(kind, monkeypatch):
    largest = []
    resize, new = Image.Image.resize, Image.new
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *a: largest.append(size) or resize(self, size, *a)
    )
    monkeypatch.setattr(
        Image, "new", lambda mode, size, *a: largest.append(size) or new(mode, size, *a)
    )
    result = square(np.full((2, 60_000, 3), 200, np.uint8), 32, kind=kind)
    assert (result == 200).all(axis=(1, 2)).any()
    assert max(width * height for width, height in largest) < 1 << 20
