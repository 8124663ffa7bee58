"""Adapters between ours and PEFT, in both directions: the same logits."""

import dataclasses
import json
import warnings

import jax
import numpy as np
import owls
import peft
import pytest
import reference
import torch
from safetensors.torch import load_file
from torch import nn

import owl_jax
from owl_jax.checkpoint.adapter_base import BASE_FILE
from owl_jax.errors import UserError
from owl_jax.inference.api import Owl
from owl_jax.models.lora import LoraConfig

MAKERS = {"llama": reference.llama, "bloom": reference.bloom}

# What PEFT would adapt in each: a list of names, a name's longer end, a pattern, everything.
TARGETS = (
    ("llama", ["q_proj", "v_proj"]),
    ("llama", ["o_proj", "mlp.down_proj", "gate_proj"]),
    ("llama", r".*layers\.\d+\.self_attn\.[qkv]_proj"),
    ("bloom", ["query_key_value"]),
    ("bloom", ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]),
)


class Whole(nn.Module):
    """What has a language model where mPLUG-Owl has it."""

    def __init__(self, language_model):
        super().__init__()
        self.language_model = language_model
        self.config = language_model.config

    def forward(self, input_ids):
        return self.language_model(input_ids=input_ids)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """For each kind: (its language model as transformers has it, an Owl of ours around it)."""
    made = {}
    for kind, make in MAKERS.items():
        directory = tmp_path_factory.mktemp(kind)
        plain = reference.save(make(), directory / "plain")
        made[kind] = plain, owls.write_owl_around(plain, directory / "owl")
    return made


def lora(targets, **options):
    """PEFT's config, with factors that are not zero."""
    values = {"r": 4, "lora_alpha": 12, "lora_dropout": 0.1, "init_lora_weights": False}
    return peft.LoraConfig(**{**values, "target_modules": targets, **options})


def owl_logits(directory, adapter, ids):
    return np.asarray(owl_jax.load(directory, "float32", adapter).logits(ids))


def assert_same_with(adapter, directory, model):
    """Ours with the adapter gives what the torch model gives, which is not what the base gives."""
    ids = reference.draw_ids(model.config.vocab_size)
    theirs = reference.logits(model, ids)
    reference.assert_close(owl_logits(directory, adapter, ids), theirs)
    assert np.abs(owl_logits(directory, None, ids) - theirs).max() > 0.1


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "bare"])
@pytest.mark.parametrize(("kind", "targets"), TARGETS)
def test_peft_s_adapter_is_read(kind, targets, whole, directories, tmp_path):
    language_model = MAKERS[kind]()
    torch.manual_seed(0)
    task = {} if whole else {"task_type": "CAUSAL_LM"}
    model = peft.get_peft_model(
        Whole(language_model) if whole else language_model, lora(targets, **task)
    ).eval()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()
    assert_same_with(tmp_path, directories[kind][1], model)


def test_peft_s_adapter_of_everything(directories, tmp_path):
    torch.manual_seed(0)
    config = lora("all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(reference.llama(), config).eval()
    model.save_pretrained(tmp_path)
    assert_same_with(tmp_path, directories["llama"][1], model)
    adapted = owl_jax.load(directories["llama"][1], "float32", tmp_path).config.lora.targets
    assert len(adapted) == 7


def test_peft_s_adapter_in_a_torch_file(directories, tmp_path):
    torch.manual_seed(0)
    model = peft.get_peft_model(Whole(reference.llama()), lora(["q_proj"])).eval()
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(file), tmp_path / "adapter_model.bin")
    file.unlink()
    assert_same_with(tmp_path, directories["llama"][1], model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_peft_s_adapter_in_half_precision(dtype, directories, tmp_path):
    torch.manual_seed(0)
    model = peft.get_peft_model(Whole(reference.llama()), lora(["q_proj", "v_proj"])).eval()
    factors = {name: value for name, value in model.named_parameters() if "lora_" in name}
    for value in factors.values():
        value.data = value.data.to(dtype)
    model.save_pretrained(tmp_path)
    for value in factors.values():
        value.data = value.data.float()
    assert_same_with(tmp_path, directories["llama"][1], model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_rslora": True}, "use_rslora"),
        ({"use_dora": True}, "use_dora"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"layers_to_transform": [1]}, "layers_to_transform"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "not supported: bias"),
        ({"exclude_modules": r".*\.1\..*"}, "not supported: exclude_modules"),
    ],
)
def test_what_is_more_than_plain_lora_is_refused(options, message, directories, tmp_path):
    kind = "bloom" if "bias" in options else "llama"
    targets = ["query_key_value"] if kind == "bloom" else ["q_proj", "v_proj"]
    model = peft.get_peft_model(Whole(MAKERS[kind]()), lora(targets, **options))
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        owl_jax.load(directories[kind][1], "float32", tmp_path)


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("llama", ("q_proj", "v_proj")),
        ("llama", ("k_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
        ("bloom", ("query_key_value",)),
        ("bloom", ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")),
    ],
)
def test_our_adapter_is_read_by_peft(kind, targets, directories, tmp_path):
    plain, directory = directories[kind]
    adapter = write_ours(directory, targets, tmp_path / "adapter")
    assert (adapter / BASE_FILE).exists()
    names = load_file(adapter / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.language_model.") for name in names)
    with warnings.catch_warnings():
        # Of keys that it does not know, and of factors that it misses.
        warnings.simplefilter("error")
        model = peft.PeftModel.from_pretrained(Whole(MAKERS[kind]()), adapter).eval()
    held = peft.get_peft_model_state_dict(model)
    assert held.keys() == names.keys()
    for name, value in names.items():
        torch.testing.assert_close(held[name], value, rtol=0, atol=0)
    ids = reference.draw_ids(model.config.vocab_size)
    with_adapter = reference.logits(model, ids)
    assert_same_with(adapter, directory, model)
    merged = reference.logits(model.merge_and_unload(), ids)
    np.testing.assert_allclose(merged, with_adapter, rtol=0, atol=reference.TOLERANCE)
    assert plain.is_dir()


def test_our_config_is_what_peft_says_of_it(directories, tmp_path):
    directory = directories["llama"][1]
    adapter = write_ours(directory, ("q_proj", "v_proj"), tmp_path / "adapter")
    config = peft.PeftConfig.from_pretrained(adapter)
    assert isinstance(config, peft.LoraConfig)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 12.0, 0.1)
    assert config.base_model_name_or_path == str(directory)
    values = json.loads((adapter / "adapter_config.json").read_text())
    assert values.keys() <= config.to_dict().keys()


def test_there_and_back(directories, tmp_path):
    """Ours, read and written by PEFT, read by ours: the same to the bit."""
    directory = directories["llama"][1]
    adapter = write_ours(directory, ("q_proj", "v_proj"), tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(Whole(reference.llama()), adapter)
    model.save_pretrained(tmp_path / "theirs")
    ours, theirs = (
        owl_jax.load(directory, "float32", path) for path in (adapter, tmp_path / "theirs")
    )
    assert ours.config == theirs.config
    jax.tree.map(np.testing.assert_array_equal, ours.params["lora"], theirs.params["lora"])


def write_ours(directory, targets, target):
    """An adapter of random factors for an Owl, as Owl.save writes it."""
    base = owl_jax.load(directory, "float32")
    adapter = LoraConfig(4, 12.0, 0.1, targets)
    config = dataclasses.replace(base.config, lora=adapter)
    factors = owls.draw(config)["lora"]
    owl = Owl(config, {**base.params, "lora": factors}, tokenizer_source=directory)
    owl.save(target, format="peft")
    return target


@pytest.mark.parametrize("initialisation", ["gaussian", "orthogonal"])
def test_initialisation_that_keeps_the_base_is_read(initialisation, directories, tmp_path):
    torch.manual_seed(0)
    config = lora(["q_proj", "v_proj"], init_lora_weights=initialisation)
    model = peft.get_peft_model(Whole(reference.llama()), config).eval()
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = 0.3 * torch.randn_like(value)  # as after training
    model.save_pretrained(tmp_path)
    assert_same_with(tmp_path, directories["llama"][1], model)


@pytest.mark.parametrize("initialisation", ["pissa", "olora"])
def test_initialisation_that_changes_the_base_is_refused(initialisation, directories, tmp_path):
    config = lora(["q_proj", "v_proj"], init_lora_weights=initialisation)
    model = peft.get_peft_model(Whole(reference.llama()), config).eval()
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"init_lora_weights '{initialisation}', which changes"):
        owl_jax.load(directories["llama"][1], "float32", tmp_path)
