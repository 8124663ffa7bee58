"""Parts of every kind together: a training step on eight devices, saved, loaded, asked.

Models are drawn from the dicts of parts, so a new part is in some of them without being named here.
"""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from small_parts import MODELS, OTHERS, ask, fitting, make_data, partners_in, train_a_step

import owl_jax
from owl_jax.checkpoint.model_directory import read_config
from owl_jax.models.config import PARTS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def test_each_part_is_there_with_at_least_three_others():
    partners = partners_in(MODELS)
    assert partners.keys() == {name for parts in PARTS.values() for name in parts}
    assert min(map(len, partners.values())) >= OTHERS == 3


@pytest.mark.parametrize("names", MODELS, ids="+".join)
def test_a_step_on_eight_devices_saved_loaded_asked(names, data, tmp_path):
    assert len(jax.devices()) == 8
    model = fitting(names)
    saved = train_a_step(model, data, tmp_path)
    assert read_config(saved) == model
    assert ask(saved)


def test_a_picture_and_a_video_of_other_lengths_in_one_conversation(data, tmp_path):
    """A token for each patch of each frame: 16 and 32 tokens."""
    frames = [Image.new("RGB", (60, 40), (80 * i, 30, 200)) for i in range(3)]
    frames[0].save(data / "blue.gif", save_all=True, append_images=frames[1:])
    text = "Human: <image>\nHuman: <|video|>\nHuman: What do you see?\nAI: Red and blue."
    record = {"text": text, "image": ["red.png"], "video": ["blue.gif"]}
    (data / "both.jsonl").write_text(f"{json.dumps(record)}\n" * 8)
    model = fitting(("siglip", "mlp", "llama"))
    assert model.media_lengths(2) == (16, 32)
    saved = train_a_step(model, data, tmp_path, "both.jsonl", video_slots=1, frames=2)
    owl = owl_jax.load(saved, "float32")
    message = {"role": "user", "content": "<image>\n<|video|>\nWhat do you see?"}
    picture, clip = np.zeros((40, 60, 3), np.uint8), np.full((5, 40, 60, 3), 90, np.uint8)
    assert owl.chat([message], images=[picture], videos=[clip], num_frames=2, max_new_tokens=2)
