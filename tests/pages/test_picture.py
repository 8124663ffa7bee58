import base64
import io
import re

import numpy as np
from PIL import Image

from owl_jax.pages.picture import picture


def shown(tag):
    """The file in a tag, and its kind."""
    kind, data = re.fullmatch(r'<img src="data:image/(\w+);base64,([^"]*)" .*>', tag).groups()
    return kind, Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def noise(width, height):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def test_a_picture_as_it_is():
    image = noise(12, 9)
    kind, found = shown(picture(image, "it"))
    assert kind == "png"
    np.testing.assert_array_equal(np.asarray(found), np.asarray(image))


def test_a_thumbnail_keeps_the_shape_and_the_original():
    image = noise(200, 100)
    tag = picture(image, "it", thumbnail=80)
    kind, found = shown(tag)
    assert kind == "jpeg" and found.size == (80, 40)
    assert 'width="80" height="40"' in tag
    assert image.size == (200, 100)


def test_a_small_picture_is_not_enlarged_and_keeps_its_colors():
    image = Image.new("RGB", (32, 32), (200, 30, 40))
    image.paste((20, 60, 220), (8, 8, 16, 16))
    _, found = shown(picture(image, "it", thumbnail=80))
    difference = np.abs(np.asarray(found, int) - np.asarray(image, int))
    assert found.size == (32, 32) and difference.mean() < 3


def test_its_description_is_escaped():
    assert 'alt="&lt;a&gt; &quot;b&quot;"' in picture(noise(2, 2), '<a> "b"')
