"""Pixels of transformers' image processors from their own preprocessor_config.json."""

import dataclasses

import numpy as np
import pytest
import transformers
from PIL import Image

from owl_jax.checkpoint.preprocessor import with_preprocessor
from owl_jax.media.image import preprocess_image
from owl_jax.models.families.mplug_owl import variant

SIZE = 28
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
STATISTICS = {"image_mean": MEAN, "image_std": STD}
SQUARE = {"height": SIZE, "width": SIZE}
PROCESSORS = {
    "clip": transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size=SQUARE, **STATISTICS
    ),
    "siglip": transformers.SiglipImageProcessorPil(size=SQUARE, **STATISTICS),
    "siglip bilinear": transformers.SiglipImageProcessorPil(size=SQUARE, resample=2, **STATISTICS),
    "llava": transformers.LlavaImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size=SQUARE, do_pad=True, **STATISTICS
    ),
}
KINDS = {"clip": "crop", "siglip": "squash", "siglip bilinear": "squash", "llava": "pad"}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_transformers(name, tmp_path):
    processor = PROCESSORS[name]
    processor.save_pretrained(tmp_path)
    released = variant("llama")
    vision = dataclasses.replace(released.vision, image_size=SIZE)
    config = dataclasses.replace(released, vision=vision)
    config = with_preprocessor(config, tmp_path, reads_resizing=True)
    assert config.resizing.kind == KINDS[name]
    random = np.random.default_rng(0)
    for width, height in [(28, 28), (40, 31), (31, 40), (57, 200), (201, 58), (9, 13), (300, 299)]:
        picture = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        expected = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        ours = preprocess_image(picture, SIZE, config.resizing) / 255.0
        ours = (ours - config.vision.pixel_mean) / config.vision.pixel_std
        np.testing.assert_allclose(ours, expected, atol=1e-5, err_msg=f"{width} x {height}")
