"""SigLIP, hidden layers of CLIP and SigLIP, and LLaVA's MLP: the same numbers as transformers."""

import jax
import numpy as np
import pytest
import reference
import torch
import transformers
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.lazy_arrays import device_put_lazy
from owl_jax.checkpoint.model_directory import open_subtrees
from owl_jax.checkpoint.tensors import TensorFiles, from_source, to_source
from owl_jax.checkpoint.torch_files import TorchFiles
from owl_jax.errors import UserError
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.mlp import MlpConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.vision.siglip import SiglipConfig

# 45 pixels are three patches and 3 pixels more, which belong to none.
SIGLIP = {**reference.VISION, "image_size": 45, "patch_size": 14}


def siglip_vision(**changes):
    config = transformers.SiglipVisionConfig(**{**SIGLIP, **changes})
    return reference.randomized(transformers.SiglipVisionModel(config))


def siglip():
    """A whole SigLIP, with a text tower of the same width."""
    text = {
        "vocab_size": 50,
        "hidden_size": 48,
        "intermediate_size": 40,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
        "projection_size": 48,
    }
    config = transformers.SiglipConfig(text_config=text, vision_config=SIGLIP)
    return reference.randomized(transformers.SiglipModel(config))


def encode(directory, pictures, change=lambda vision: vision):
    """The output for float32[N, S, S, 3] of the encoder in a directory, changed."""
    opened = open_subtrees(directory, ["vision"])
    vision = change(opened.config.vision)
    params = vision.taken_from(opened.params["vision"])
    params = jax.tree.map(lambda leaf: device_put_lazy(leaf, np.float32), params)
    module = vision.build(Compute())
    encoded = jax.jit(module.apply)({"params": params}, pictures[:, None])
    assert encoded.shape == (len(pictures), 1, vision.tokens_per_frame, vision.hidden_size)
    return encoded[:, 0]


def theirs(tower, pictures):
    pixels = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return tower(pixel_values=pixels, output_hidden_states=True)


@pytest.mark.parametrize("form", reference.FORMS)
def test_siglip_s_vision_tower(form, tmp_path):
    model = siglip_vision()
    reference.save(model, tmp_path, form)
    pictures = reference.draw_pictures(45)
    output = theirs(model, pictures).last_hidden_state
    reference.assert_close(encode(tmp_path, pictures), output.numpy())
    opened = open_subtrees(tmp_path, ["vision"])
    assert opened.config.vision == SiglipConfig(45, 14, 48, 80, 3, 4)
    assert "pooling head" in opened.notes[0]


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_siglip(form, tmp_path):
    model = siglip()
    reference.save(model, tmp_path, form)
    pictures = reference.draw_pictures(45)
    output = theirs(model.vision_model, pictures).last_hidden_state
    reference.assert_close(encode(tmp_path, pictures), output.numpy())


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_siglip_without_its_head_and_with_the_prefix_of_transformers_4(form, tmp_path):
    model = siglip_vision(vision_use_head=False, image_size=42)
    state = {f"vision_model.{name}": value for name, value in model.state_dict().items()}
    model.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    pictures = reference.draw_pictures(42)
    output = theirs(model, pictures).last_hidden_state
    reference.assert_close(encode(tmp_path, pictures), output.numpy())


@pytest.mark.parametrize(
    ("vision", "model", "config"),
    [
        (
            ClipConfig(42, 14, 48, 80, 3, 4, layer_norm_eps=1e-4),
            transformers.CLIPVisionModel,
            transformers.CLIPVisionConfig,
        ),
        (
            SiglipConfig(45, 14, 48, 80, 3, 4, layer_norm_eps=1e-4),
            transformers.SiglipVisionModel,
            transformers.SiglipVisionConfig,
        ),
    ],
    ids=["clip", "siglip"],
)
def test_what_we_write_of_an_encoder_is_what_transformers_has(vision, model, config, tmp_path):
    model = reference.randomized(model(config(**vision.to_hf())))
    opened = open_subtrees(reference.save(model, tmp_path), ["vision"])
    assert opened.config.vision == vision and opened.notes == ()
    written = {
        tensor.name.removeprefix("vision_model."): tensor.read()
        for tensor in to_source(vision.weight_rows(), opened.params)
    }
    theirs = dict(model.named_parameters())
    assert written.keys() == {name.removeprefix("vision_model.") for name in theirs}
    for name, value in theirs.items():
        ours = written[name.removeprefix("vision_model.")]
        np.testing.assert_array_equal(ours, value.detach().numpy())


@pytest.mark.parametrize("layer", [-1, -2, 1])
@pytest.mark.parametrize("class_token", [True, False])
def test_hidden_layers_of_clip(layer, class_token, tmp_path):
    model = reference.clip_vision()
    reference.save(model, tmp_path)
    pictures = reference.draw_pictures(42)
    state = theirs(model, pictures).hidden_states[layer]
    ours = encode(tmp_path, pictures, lambda vision: vision.at_layer(layer, class_token))
    reference.assert_close(ours, state[:, 0 if class_token else 1 :].numpy())


@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_hidden_layers_of_siglip(layer, tmp_path):
    model = siglip_vision()
    reference.save(model, tmp_path)
    pictures = reference.draw_pictures(45)
    state = theirs(model, pictures).hidden_states[layer]
    ours = encode(tmp_path, pictures, lambda vision: vision.at_layer(layer, True))
    reference.assert_close(ours, state.numpy())


@pytest.mark.parametrize("make", [reference.clip_vision, siglip_vision])
def test_what_follows_the_last_layer_is_ignored_by_an_encoder_without_a_post_norm(make, tmp_path):
    model = make()
    reference.save(model, tmp_path)
    names = TensorFiles([tmp_path / "model.safetensors"]).names()
    whole = open_subtrees(tmp_path, ["vision"]).config.vision
    assert not whole.ignores("vision_model.post_layernorm.bias")
    vision = whole.at_layer(-2, False)
    for prefix in ("", "vision_model."):
        ignored = {name for name in names if vision.ignores(prefix + name)}
        assert {"encoder.layers.2.mlp.fc1.weight", "post_layernorm.bias"} <= ignored
        assert "encoder.layers.1.mlp.fc1.weight" not in ignored


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_a_siglip_with_another_activation_is_refused(activation, tmp_path):
    reference.save(siglip_vision(hidden_act=activation), tmp_path)
    with pytest.raises(UserError, match=f"hidden_act is '{activation}'"):
        open_subtrees(tmp_path, ["vision"])


def test_llava_s_projector(tmp_path):
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**reference.VISION),
        text_config=transformers.LlamaConfig(**{**reference.LLAMA, "hidden_size": 36}),
    )
    projector = reference.randomized(LlavaMultiModalProjector(config))
    tensors = {name: value.numpy() for name, value in projector.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(2, 9, 48)).astype(np.float32)
    with torch.no_grad():
        expected = projector(torch.from_numpy(x)).numpy()

    model = OwlConfig(
        ClipConfig(42, 14, 48, 80, 3, 4, class_token_output=False),
        MlpConfig(36),
        LlamaConfig(71, 36, 88, 1, 6, 6),
    )
    module = model.connector.build(model.vision, 36, Compute())
    for rows, name in (
        (model.connector.weight_rows(), "multi_modal_projector.linear_{}"),
        (model.connector.original_weight_rows(), "model.mm_projector.{}"),
    ):
        numbers = (1, 2) if "linear" in name else (0, 2)
        state = {
            f"{name.format(number)}.{kind}": torch.from_numpy(tensors[f"linear_{i}.{kind}"])
            for i, number in enumerate(numbers, start=1)
            for kind in ("weight", "bias")
        }
        torch.save(state, tmp_path / "pytorch_model.bin")
        files = TorchFiles([tmp_path / "pytorch_model.bin"])
        params = from_source(rows, files, abstract_params(model), tmp_path)["connector"]
        params = jax.tree.map(lambda leaf: device_put_lazy(leaf, np.float32), params)
        ours = module.apply({"params": params}, x[:, None])
        assert ours.shape == (2, model.num_tokens("image"), 36)
        reference.assert_close(ours, expected)
