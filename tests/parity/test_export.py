"""Our exports, opened by transformers: every tensor is taken, and the numbers are the same."""

import dataclasses
import json

import golden
import numpy as np
import owls
import pytest
import reference
import torch
import transformers
from safetensors.torch import load_file

from owl_jax.checkpoint.model_directory import save_model
from owl_jax.models.compute import Compute
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.language.mistral import MistralConfig
from owl_jax.models.language.qwen2 import Qwen2Config
from owl_jax.models.language.qwen3 import Qwen3Config
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vision.clip import Clip

SIZES = 71, 48, 88, 3, 6, 2, 1e-5, 5000.0, 64
LLAMA = LlamaConfig(*SIZES)
BLOOM = BloomConfig(67, 48, 3, 6)
LORA = LoraConfig(4, 8.0, 0.1, ("q_proj", "down_proj"))

# What transformers calls the parts of a vision layer, and what the release does.
_RENAMED = {
    "embeddings.patch_embed": "embeddings.patch_embedding",
    "embeddings.pre_layernorm": "pre_layrnorm",
    "input_layernorm": "layer_norm1",
    "post_attention_layernorm": "layer_norm2",
    "self_attn.dense": "self_attn.out_proj",
}


def exported(config, target):
    """(our parameters, the tensors of their export, its config.json)."""
    params = owls.draw(config)
    save_model(target, config, params, "huggingface")
    values = json.loads((target / "config.json").read_text())
    return params, load_file(target / "model.safetensors"), values


def below(prefix, tensors):
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def language_model(tensors, values):
    """The model of transformers that config.json's text_config names, with the tensors."""
    values = dict(values["text_config"])
    kind = values.pop("model_type")
    config = transformers.AutoConfig.for_model(kind, **values)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    state = below("language_model.", tensors)
    if kind == "bloom":
        # Its head is its embedding, which the release's files hold once.
        assert "lm_head.weight" not in state
        state["lm_head.weight"] = state["transformer.word_embeddings.weight"]
    elif values["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model


@pytest.mark.parametrize(
    "llm",
    [
        LLAMA,
        dataclasses.replace(LLAMA, tied=True, rope_type="llama3", rope_original_positions=32),
        MistralConfig(*SIZES, sliding_window=7),
        Qwen2Config(*SIZES, bos_token_id=1, eos_token_id=2, pad_token_id=0),
        Qwen3Config(*SIZES, bos_token_id=1, eos_token_id=2, pad_token_id=0, head_width=14),
        BLOOM,
    ],
    ids=["llama", "llama 3", "mistral", "qwen2", "qwen3", "bloom"],
)
def test_a_language_model(llm, tmp_path):
    config = owls.small(llm)
    params, tensors, values = exported(config, tmp_path / "owl")
    ids = reference.draw_ids(llm.vocab_size)
    ours = golden.jitted_forward(config, Compute(), params, **golden.rows(config, ids))
    reference.assert_close(ours, reference.logits(language_model(tensors, values), ids))


def test_an_adapter_is_merged_into_it(tmp_path):
    config = owls.small(LLAMA)
    adapted = dataclasses.replace(config, lora=LORA)
    params, tensors, values = exported(adapted, tmp_path / "owl")
    ids = reference.draw_ids(LLAMA.vocab_size)
    ours = golden.jitted_forward(adapted, Compute(), params, **golden.rows(adapted, ids))
    reference.assert_close(ours, reference.logits(language_model(tensors, values), ids))
    base = {name: branch for name, branch in params.items() if name != "lora"}
    without = golden.jitted_forward(config, Compute(), base, **golden.rows(config, ids))
    assert np.abs(ours - without).max() > 0.1


def test_the_vision_tower(tmp_path):
    config = owls.small(LLAMA)
    params, tensors, values = exported(config, tmp_path / "owl")
    vision = dict(values["vision_config"])
    assert vision.pop("model_type") == "mplug_owl_vision_model"
    tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision)).eval()
    state = {}
    for name, value in below("vision_model.", tensors).items():
        for ours, theirs in _RENAMED.items():
            name = name.replace(ours, theirs)
        if "query_key_value" in name:
            # Heads, then query, key and value of each.
            split = value.reshape(config.vision.num_heads, 3, -1, *value.shape[1:])
            for i, part in enumerate("qkv"):
                flat = split[:, i].reshape(-1, *value.shape[1:])
                state[name.replace("query_key_value", f"{part}_proj")] = flat
        elif name == "embeddings.cls_token":
            state["embeddings.class_embedding"] = value[0, 0]
        elif name == "embeddings.position_embedding":
            state["embeddings.position_embedding.weight"] = value[0]
        else:
            state[name] = value
    # Releases of transformers differ in whether the tower's names have this prefix.
    prefix = "vision_model." if hasattr(tower, "vision_model") else ""
    tower.load_state_dict({prefix + name: value for name, value in state.items()}, strict=True)

    pictures = reference.draw_pictures(config.vision.image_size)
    ours = Clip(config.vision, Compute()).apply({"params": params["vision"]}, pictures[:, None])
    states, _ = reference.encoded(tower, pictures)
    with torch.no_grad():
        norm = getattr(tower, "vision_model", tower).post_layernorm
        theirs = norm(torch.from_numpy(states[-1])).numpy()
    reference.assert_close(ours[:, 0], theirs)
