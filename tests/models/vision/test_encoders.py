"""Every vision encoder: what it says about its output is what its module gives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from owl_jax.models.compute import Compute
from owl_jax.models.vision import VISION_ENCODERS
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.vision.siglip import SiglipConfig

CLIP = ClipConfig(28, 14, 16, 32, num_layers=3, num_heads=2)
SIGLIP = SiglipConfig(30, 14, 16, 32, num_layers=3, num_heads=2)
SMALL = {
    "clip": CLIP,
    "clip without class token": dataclasses.replace(CLIP, class_token_output=False),
    "clip's layer before the last": CLIP.at_layer(-2, False),
    "siglip": SIGLIP,
    "siglip's first layer": SIGLIP.at_layer(1, True),
}


def drawn(vision):
    """float32 weights, none of them 0 or 1."""
    module = vision.build(Compute())
    side = vision.image_size
    pixels = jnp.zeros((1, 1, side, side, 3))
    shapes = nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(0), pixels)["params"])
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: random.normal(0, 0.3, x.shape).astype(np.float32), shapes)


def encode(vision, params, pixels):
    return jax.jit(vision.build(Compute()).apply)({"params": params}, pixels)


@pytest.mark.parametrize("vision", SMALL.values(), ids=SMALL.keys())
def test_the_output_is_prefix_and_grid(vision):
    side = vision.image_size
    encoded = jax.eval_shape(
        vision.build(Compute()).apply,
        {"params": drawn(vision)},
        jax.ShapeDtypeStruct((2, 3, side, side, 3), jnp.float32),
    )
    rows, columns = vision.grid
    assert vision.tokens_per_frame == vision.num_prefix_tokens + rows * columns
    assert encoded.shape == (2, 3, vision.tokens_per_frame, vision.hidden_size)
    assert vision.problems("vision") == []


def test_every_encoder_is_here():
    assert {vision.architecture for vision in SMALL.values()} == VISION_ENCODERS.keys()


def test_the_start_of_an_encoder_is_a_hidden_state_of_the_whole():
    pixels = np.random.default_rng(0).normal(size=(1, 1, 28, 28, 3)).astype(np.float32)
    params = drawn(CLIP)
    whole = encode(dataclasses.replace(CLIP, post_norm=False), params, pixels)
    for layer, length in ((-1, 3), (-2, 2), (1, 1)):
        start = CLIP.at_layer(layer, True)
        assert (start.num_layers, start.post_norm) == (length, False)
        taken = jax.tree.map(
            lambda x: np.asarray(x[tuple(map(slice, x.shape))]), start.taken_from(params)
        )
        assert taken["layers"]["qkv"]["kernel"].shape[0] == length
        assert "post_norm" not in taken
        got = encode(start, taken, pixels)
        assert np.allclose(got, whole, atol=1e-5) == (layer == -1)
    assert CLIP.taken_from(params) == params


@pytest.mark.parametrize("layer", [0, 4, -4])
def test_a_layer_that_is_not_there(layer):
    with pytest.raises(ValueError, match=f"layer {layer}; expected 1 to 3, or -3 to -1"):
        CLIP.at_layer(layer, True)


def test_the_class_token_comes_first():
    pixels = np.random.default_rng(0).normal(size=(1, 1, 28, 28, 3)).astype(np.float32)
    params = drawn(CLIP)
    patches = encode(SMALL["clip without class token"], params, pixels)
    np.testing.assert_array_equal(encode(CLIP, params, pixels)[:, :, 1:], patches)


def test_siglip_drops_pixels_that_fill_no_patch():
    random = np.random.default_rng(0)
    pixels = random.normal(size=(1, 1, 30, 30, 3)).astype(np.float32)
    params = drawn(SIGLIP)
    changed = pixels.copy()
    changed[:, :, 28:], changed[:, :, :, 28:] = 9, 9
    np.testing.assert_array_equal(encode(SIGLIP, params, pixels), encode(SIGLIP, params, changed))


@pytest.mark.parametrize(
    ("vision", "problem"),
    [
        (
            dataclasses.replace(CLIP, image_size=30),
            "vision.image_size 30 is not a multiple of vision.patch_size 14",
        ),
        (
            dataclasses.replace(SIGLIP, image_size=13),
            "vision.image_size 13 is less than vision.patch_size 14",
        ),
        (
            dataclasses.replace(SIGLIP, num_heads=3),
            "vision.hidden_size 16 is not a multiple of vision.num_heads 3",
        ),
    ],
)
def test_problems(vision, problem):
    assert vision.problems("vision") == [problem]


@pytest.mark.parametrize("vision", [CLIP, SIGLIP], ids=["clip", "siglip"])
def test_positions_fit_another_size_of_pictures(vision):
    """From 2 x 2 patches to 4 x 4; a class token's position stays, and a constant grid too."""
    positions = np.ones((4 + vision.num_prefix_tokens, 16), np.float32)
    positions[: vision.num_prefix_tokens] = 7
    shape = (16 + vision.num_prefix_tokens, 16)
    got = vision.refitted(("positions",), positions, shape)
    assert got.shape == shape
    np.testing.assert_array_equal(got[: vision.num_prefix_tokens], 7)
    np.testing.assert_allclose(got[vision.num_prefix_tokens :], 1, atol=1e-6)
    assert vision.refitted(("positions",), positions, (shape[0], 8)) is None
    assert vision.refitted(("post_norm", "scale"), positions, shape) is None
