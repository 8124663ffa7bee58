"""LLaVA's directories as we write them: read again, they are the same model."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import owl_jax
from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.model_directory import save_model
from owl_jax.errors import UserError
from owl_jax.media.resizing import Resizing
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.connectors.mlp import MlpConfig
from owl_jax.models.families.llava import LLAVA_7B
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.language.owl2 import Owl2LlamaConfig
from owl_jax.models.language.qwen2 import Qwen2Config
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.vision.siglip import SiglipConfig

SIZES = {"image_size": 28, "hidden_size": 16, "intermediate_size": 24, "num_layers": 3}
CLIP = ClipConfig(**SIZES, num_heads=2).at_layer(-2, class_token=False)
SIGLIP = SiglipConfig(**SIZES, num_heads=2).at_layer(-1, class_token=False)
TEXT = {
    "vocab_size": 340,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA, QWEN = LlamaConfig(**TEXT), Qwen2Config(**TEXT)
MLP = MlpConfig(hidden_size=16)
PAD = Resizing("pad", fill=(1, 2, 3))

MODELS = {
    "clip": OwlConfig(CLIP, MLP, LLAMA, resizing=PAD, conversation="vicuna_v1"),
    "siglip and qwen": OwlConfig(SIGLIP, MLP, QWEN, conversation="chatml"),
    "tied": OwlConfig(CLIP, MLP, dataclasses.replace(QWEN, tied=True), conversation="owl"),
    "authors' linear": OwlConfig(
        CLIP, MlpConfig(hidden_size=16, num_layers=1), LLAMA, resizing=PAD, conversation="plain"
    ),
}


def draw(config):
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: random.normal(size=x.shape).astype(np.float32), abstract_params(config)
    )


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_read_again(name, tmp_path):
    config = MODELS[name]
    params = draw(config)
    save_model(tmp_path / "saved", config, params, "huggingface")
    owl = owl_jax.load(tmp_path / "saved", "float32")
    assert owl.config == config
    assert jax.tree.structure(owl.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, owl.params, params)
    owl.save(tmp_path / "again")
    files = [tmp_path / name / "model.safetensors" for name in ("saved", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    "config",
    [
        OwlConfig(CLIP, AbstractorConfig(2, 16, 24, 1, 2), LLAMA),
        OwlConfig(
            ClipConfig(**SIZES, num_heads=2, class_token_output=False),
            AbstractorConfig(2, 16, 24, 1, 2),
            LLAMA,
        ),
        OwlConfig(dataclasses.replace(CLIP, temporal=True), MLP, LLAMA),
        OwlConfig(ClipConfig(**SIZES, num_heads=2), MLP, LLAMA),
        OwlConfig(CLIP, MLP, Owl2LlamaConfig(**TEXT)),
        OwlConfig(None, None, Owl2LlamaConfig(**TEXT)),
        OwlConfig(CLIP, MLP, BloomConfig(340, 16, 2, 2)),
    ],
    ids=["cut", "no class token", "temporal", "last norm", "owl2", "owl2 alone", "bloom"],
)
def test_what_no_format_can_express_is_one_line(config, tmp_path):
    with pytest.raises(UserError, match=r"no Hugging Face format for a model of .*format=orbax"):
        save_model(tmp_path / "saved", config, draw(config), "huggingface")
    assert not (tmp_path / "saved").exists()


def test_another_language_model_has_its_own_conversation(tmp_path):
    config = dataclasses.replace(MODELS["siglip and qwen"], conversation="chat_template")
    save_model(tmp_path / "saved", config, draw(config), "huggingface")
    path = tmp_path / "saved" / "config.json"
    values = json.loads(path.read_text())
    del values["owl_jax_conversation"]  # as transformers writes it
    path.write_text(json.dumps(values))
    assert owl_jax.load(tmp_path / "saved").config.conversation == "owl"
    (tmp_path / "saved" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert owl_jax.load(tmp_path / "saved").config.conversation == "chat_template"


def test_the_released_model_fits():
    assert LLAVA_7B.problems() == []
    assert LLAVA_7B.num_tokens("image") == 576


def test_a_tie_of_the_whole_model_is_one_of_its_text(tmp_path):
    config = MODELS["tied"]
    save_model(tmp_path / "saved", config, draw(config), "huggingface")
    path = tmp_path / "saved" / "config.json"
    values = json.loads(path.read_text())
    values["tie_word_embeddings"] = True
    values["text_config"]["tie_word_embeddings"] = False
    path.write_text(json.dumps(values))
    assert owl_jax.load(tmp_path / "saved").config == config
