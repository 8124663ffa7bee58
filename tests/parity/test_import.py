"""CLIP, LLaMA and BLOOM as transformers writes them, opened by ours: the same numbers."""

import json

import golden
import numpy as np
import pytest
import reference
import torch
import transformers
from read_whole import read_subtrees

from owl_jax.checkpoint.model_directory import open_subtrees
from owl_jax.errors import UserError
from owl_jax.models.compute import Compute
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.vision.clip import Clip, ClipConfig


def our_logits(directory, ids):
    """Of the language model in a directory, inside Owl, with text alone."""
    config = open_subtrees(directory, ["llm"]).config
    params = read_subtrees(directory, ["llm"], np.float32)
    given = golden.rows(config, ids)
    return golden.jitted_forward(config, Compute(), params, **given)


def our_encoding(directory, pictures):
    """As reference.encoded, and the encoder's output."""
    config = open_subtrees(directory, ["vision"]).config.vision
    params = read_subtrees(directory, ["vision"], np.float32)["vision"]
    output, state = Clip(config, Compute()).apply(
        {"params": params}, pictures[:, None], mutable=["intermediates"]
    )
    state = state["intermediates"]
    states = [state["embeddings"][0], *state["layers"]["output"][0]]
    return states, output[:, 0, 0], output, golden.pooled_class_token(output, params, config)


def assert_language_model(model, directory):
    ids = reference.draw_ids(model.config.vocab_size)
    reference.assert_close(our_logits(directory, ids), reference.logits(model, ids))


def assert_vision_tower(model, directory):
    tower = getattr(model, "vision_model", model)
    pictures = reference.draw_pictures(tower.config.image_size)
    states, class_token, output, pooled = our_encoding(directory, pictures)
    their_states, their_class_token = reference.encoded(tower, pictures)
    assert len(states) == len(their_states)
    for ours, theirs in zip(states, their_states, strict=True):
        reference.assert_close(ours, theirs)
    reference.assert_close(class_token, their_class_token)
    # mPLUG-Owl's encoder norms every token, and its pooler the class token once more.
    norm = tower.post_layernorm
    with torch.no_grad():
        normed = norm(torch.from_numpy(their_states[-1]))
        reference.assert_close(output[:, 0], normed.numpy())
        reference.assert_close(pooled, norm(normed[:, 0]).numpy())


@pytest.mark.parametrize("form", reference.FORMS)
def test_llama(form, tmp_path):
    model = reference.llama()
    assert_language_model(model, reference.save(model, tmp_path, form))
    config = open_subtrees(tmp_path, ["llm"]).config.llm
    assert config == LlamaConfig(71, 48, 88, 3, 6, 2, 1e-5, 5000.0, 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 6},
        {"num_key_value_heads": 1, "hidden_size": 24, "vocab_size": 33},
        {"tie_word_embeddings": True},
        {"head_dim": 16},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ],
)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_llama_of_other_sizes_and_with_a_tied_head(changes, form, tmp_path):
    model = reference.llama(**changes)
    assert_language_model(model, reference.save(model, tmp_path, form))


def test_llama_as_older_releases_wrote_it(tmp_path):
    """Angles in the weights, their base not in config.json, and no number of key heads."""
    model = reference.llama(num_key_value_heads=6, rope_theta=10000.0)
    buffers = {
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4)
        for i in range(model.config.num_hidden_layers)
    }
    reference.save(model, tmp_path, "bin", buffers)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    for name in ("rope_parameters", "num_key_value_heads", "head_dim"):
        del values[name]
    path.write_text(json.dumps(values))
    assert_language_model(model, tmp_path)


def test_llama_with_added_words(tmp_path):
    """The embedding has grown, config.json has not."""
    model = reference.llama()
    model.resize_token_embeddings(80)
    reference.randomized(model)
    reference.save(model, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 71}))
    opened = open_subtrees(tmp_path, ["llm"])
    assert opened.config.llm.vocab_size == 80
    assert "vocab_size 71" in opened.notes[0]
    assert_language_model(model, tmp_path)


@pytest.mark.parametrize("form", reference.FORMS)
def test_bloom(form, tmp_path):
    model = reference.bloom()
    assert_language_model(model, reference.save(model, tmp_path, form))
    assert open_subtrees(tmp_path, ["llm"]).config.llm == BloomConfig(67, 48, 3, 6)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_bloom_as_it_was_published(form, tmp_path):
    """Without its head, so without a prefix, and with the first names of its sizes."""
    model = reference.bloom(n_head=4)
    reference.save(model.transformer, tmp_path, form)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["n_embed"], values["num_attention_heads"] = values.pop("hidden_size"), values["n_head"]
    path.write_text(json.dumps(values))
    assert_language_model(model, tmp_path)


@pytest.mark.parametrize("form", reference.FORMS)
def test_clip_s_vision_tower(form, tmp_path):
    model = reference.clip_vision()
    assert_vision_tower(model, reference.save(model, tmp_path, form))
    config = open_subtrees(tmp_path, ["vision"]).config.vision
    assert config == ClipConfig(42, 14, 48, 80, 3, 4, layer_norm_eps=1e-5)


@pytest.mark.parametrize("changes", [{"image_size": 28, "patch_size": 7}, {"layer_norm_eps": 0.1}])
def test_vision_towers_of_other_settings(changes, tmp_path):
    model = reference.clip_vision(**changes)
    assert_vision_tower(model, reference.save(model, tmp_path))


@pytest.mark.parametrize("form", reference.FORMS)
def test_clip(form, tmp_path):
    model = reference.clip()
    # Older releases wrote this buffer, too.
    patches = (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2
    buffers = {"vision_model.embeddings.position_ids": torch.arange(patches + 1)[None]}
    reference.save(model, tmp_path, form, buffers)
    assert_vision_tower(model, tmp_path)
    assert "text tower" in open_subtrees(tmp_path, ["vision"]).notes[0]


def test_a_vision_tower_with_its_prefix(tmp_path):
    """transformers before version 5 wrote the tower alone under its name in the whole."""
    model = reference.clip_vision()
    state = {f"vision_model.{name}": value for name, value in model.state_dict().items()}
    model.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_vision_tower(model, tmp_path)


def test_a_vision_tower_with_its_projection(tmp_path):
    config = transformers.CLIPVisionConfig(**reference.VISION)
    model = reference.randomized(transformers.CLIPVisionModelWithProjection(config))
    assert_vision_tower(model, reference.save(model, tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_half_precision_is_read_as_it_is(dtype, form, tmp_path):
    model, half = reference.llama(), reference.llama().to(dtype)
    # Not half.float(): the angles, too, have lost bits in `half`.
    model.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    reference.save(half, tmp_path, form)
    opened = open_subtrees(tmp_path, ["llm"])
    embedding = opened.params["llm"]["embed_tokens"]["embedding"]
    assert str(embedding.dtype) == str(dtype).removeprefix("torch.")
    assert_language_model(model, tmp_path)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (reference.clip_vision, {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        (reference.llama, {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        (reference.llama, {"attention_bias": True}, "attention_bias = True: not supported"),
        (reference.llama, {"mlp_bias": True}, "mlp_bias = True: not supported"),
        (
            reference.llama,
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "rope of type 'dynamic'; expected default, linear or llama3",
        ),
        (
            reference.bloom,
            {"apply_residual_connection_post_layernorm": True},
            "apply_residual_connection_post_layernorm = True: not supported",
        ),
    ],
)
def test_relatives_that_are_something_else_are_refused(make, changes, message, tmp_path):
    reference.save(make(**changes), tmp_path)
    branch = "vision" if make is reference.clip_vision else "llm"
    with pytest.raises(UserError, match=f"(?s){message}"):
        open_subtrees(tmp_path, [branch])


def test_what_was_saved_is_what_transformers_reads(tmp_path):
    """The models above are compared as they were in memory."""
    model = reference.llama()
    read = transformers.AutoModelForCausalLM.from_pretrained(reference.save(model, tmp_path))
    ids = reference.draw_ids(71)
    np.testing.assert_array_equal(reference.logits(read, ids), reference.logits(model, ids))
