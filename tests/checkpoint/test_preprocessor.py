"""preprocessor_config.json: statistics are taken over, what is computed otherwise is refused."""

import dataclasses
import json

import directories
import jax
import numpy as np
import pytest

import owl_jax
from owl_jax.checkpoint.hf_import import open_family, open_vision
from owl_jax.checkpoint.preprocessor import with_preprocessor
from owl_jax.errors import UserError
from owl_jax.media.resizing import SQUASH, Resizing
from owl_jax.models.vision.clip import ClipConfig

# As transformers 4.31 and 5 write it; the second has sides by name.
OLD = {
    "crop_size": 28,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 28,
}
PADDED = Resizing("pad", fill=(127, 127, 127))
NEW = {
    **OLD,
    "crop_size": {"height": 28, "width": 28},
    "size": {"shortest_edge": 28},
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
}


@pytest.fixture
def model(tmp_path):
    """A directory of a released model, and a function that writes the file into it."""
    directory = directories.copy(directories.LLAMA, tmp_path / "model")
    size = directories.config(directory)["vision_config"]["image_size"]

    def write(values):
        text = json.dumps(values).replace("28", str(size))
        (directory / "preprocessor_config.json").write_text(text)
        return directory

    return write


@pytest.mark.parametrize("values", [OLD, NEW, {}, {"size": None}], ids=["old", "new", "{}", "null"])
def test_files_of_the_released_models_change_nothing(model, values):
    assert open_family(model(values)).config.vision.pixel_mean == ClipConfig().pixel_mean


def test_other_statistics_normalise_uint8_pixels(model):
    plain = owl_jax.load(model(OLD), dtype="float32")
    other = owl_jax.load(model({**OLD, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}), "float32")
    size = plain.config.vision.image_size
    picture = np.random.default_rng(0).integers(0, 256, (1, size, size, 3)).astype(np.uint8)
    ids = np.array([[1, *[-1] * plain.num_tokens("image"), 20, 30]])
    by_hand = plain.logits(ids, images=((picture / 255.0 - 0.5) / 0.5).astype(np.float32))
    np.testing.assert_allclose(other.logits(ids, images=picture), by_hand, atol=1e-4)
    assert np.abs(np.asarray(plain.logits(ids, images=picture)) - by_hand).max() > 1e-3
    other.save(model(OLD).parent / "saved", "orbax")
    again = owl_jax.load(model(OLD).parent / "saved", "float32")
    assert again.config.vision.pixel_mean == (0.5, 0.5, 0.5)
    assert jax.tree.structure(again.params) == jax.tree.structure(other.params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 280}, "size is 280.*, but image_size in config.json is"),
        (
            {"crop_size": {"height": 28, "width": 14}},
            "crop_size is .*width.*: 14.*set both to 14, or both to",
        ),
        ({"do_resize": False}, "do_resize is false; expected true"),
        ({"do_normalize": False}, "do_normalize is false"),
        ({"resample": 2}, "resample is 2; expected 3, bicubic"),
        ({"rescale_factor": float("nan")}, "rescale_factor is nan; expected 1 / 255"),
        ({"rescale_factor": 0.0078}, r"rescale_factor is 0\.0078; expected 1 / 255"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is .*expected"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std.* is 0.0; number out of range|image_std"),
        ({"image_std": "wide"}, "image_std is 'wide'"),
    ],
)
def test_what_is_computed_otherwise_is_refused(model, change, message):
    with pytest.raises(UserError, match=rf"preprocessor_config\.json: {message}"):
        open_family(model({**OLD, **change}))


def test_a_vision_tower_has_its_own(tmp_path):
    directory = directories.write_clip(tmp_path)
    (directory / "preprocessor_config.json").write_text('{"image_std": [0.25, 0.25, 0.25]}')
    assert open_vision(directory).config.vision.pixel_std == (0.25, 0.25, 0.25)
    (directory / "preprocessor_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        open_vision(directory)


@pytest.mark.parametrize(
    ("values", "resizing"),
    [
        (NEW, Resizing("crop", fill=(122, 116, 104))),
        (OLD, Resizing("crop", fill=(122, 116, 104))),
        ({"size": {"height": 28, "width": 28}, "resample": 2}, Resizing("squash", "bilinear")),
        ({"size": {"height": 28, "width": 28}, "image_mean": [0.5] * 3, "do_pad": True}, PADDED),
    ],
    ids=["crop", "short side", "squash", "pad"],
)
def test_a_family_reads_the_way_to_a_square(model, values, resizing):
    config = open_family(model(OLD)).config
    directory = model(values)
    assert config.resizing == SQUASH  # mPLUG-Owl's own
    assert with_preprocessor(config, directory, reads_resizing=True).resizing == resizing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": 0}, r"resample is 0; expected 2 \(bilinear\) or 3 \(bicubic\)"),
        ({"do_center_crop": False}, "do_center_crop is false, which leaves images that are not sq"),
        ({"size": {"longest_edge": 28}}, "size is .*longest_edge.*; expected height and w"),
        (
            {"image_grid_pinpoints": [[28, 56]]},
            "image_grid_pinpoints cuts images into tiles; not",
        ),
    ],
)
def test_a_way_that_is_not_known_is_refused(model, change, message):
    directory = model(OLD)
    config = open_family(directory).config
    model({**NEW, **change})
    with pytest.raises(UserError, match=message):
        with_preprocessor(config, directory, reads_resizing=True)


def test_a_padded_picture_gets_the_mean_colour_of_the_file(model):
    config = open_family(model(OLD)).config
    padded = dataclasses.replace(config, resizing=Resizing("pad"))
    directory = model({**OLD, "image_mean": [0.5] * 3})
    assert with_preprocessor(padded, directory, reads_resizing=False).resizing == PADDED
