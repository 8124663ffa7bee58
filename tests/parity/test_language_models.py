"""Language models of transformers with random weights, alone: loaded, exported and adapted by ours.

Sizes are odd on purpose: grouped keys, heads whose width is not width / heads, tied and untied
heads, scaled angles.
"""

import dataclasses
import json
import warnings

import golden
import jax
import numpy as np
import owls
import peft
import pytest
import reference
import torch
import transformers
from safetensors.torch import load_file

import owl_jax
from owl_jax.checkpoint.model_directory import open_subtrees, save_model
from owl_jax.errors import UserError
from owl_jax.inference.api import Owl
from owl_jax.models.lora import LoraConfig
from owl_jax.parallel.mesh import make_mesh
from owl_jax.training.config import base_config
from owl_jax.training.init_params import initialize
from owl_jax.training.train_program import make_program

SIZES = {
    "vocab_size": 71,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_theta": 500.0,
    "rms_norm_eps": 1e-5,
}
# Of the 19 tokens of a test, some angles turn less than once and some more than four times.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS = {
    "llama": (transformers.LlamaConfig, {"head_dim": 10}),
    "llama 3.2": (transformers.LlamaConfig, {"rope_scaling": LLAMA3, "tie_word_embeddings": True}),
    "llama, linear": (
        transformers.LlamaConfig,
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "num_key_value_heads": 6},
    ),
    "mistral": (transformers.MistralConfig, {"sliding_window": None, "head_dim": 12}),
    "mistral 0.1": (transformers.MistralConfig, {"sliding_window": 7}),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen2, tied": (transformers.Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 14}),
    "qwen3, tied": (transformers.Qwen3Config, {"head_dim": 8, "tie_word_embeddings": True}),
    "bloom": (
        transformers.BloomConfig,
        {"vocab_size": 67, "hidden_size": 48, "n_layer": 2, "n_head": 6},
    ),
}
TARGETS = {
    "bloom": ["query_key_value", "dense", "dense_4h_to_h"],
    None: ["q_proj", "v_proj", "o_proj", "down_proj"],
}


def make(name):
    kind, changes = MODELS[name]
    config = kind(**(changes if name == "bloom" else {**SIZES, **changes}))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config)
    return reference.randomized(model)


@pytest.fixture(scope="module", params=MODELS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def directory(name, tmp_path_factory):
    return reference.save(make(name), tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture(scope="module")
def owl(directory):
    return owl_jax.load(directory, "float32")


def test_logits_and_greedy_tokens(name, owl):
    model, ids = make(name), reference.draw_ids(67)
    reference.assert_close(owl.logits(ids), reference.logits(model, ids))
    with torch.no_grad():
        theirs = model.generate(
            torch.from_numpy(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
    ours = owl.generate(ids, max_new_tokens=12, eos_token_id=-1)
    np.testing.assert_array_equal(ours, theirs[:, ids.shape[1] :].numpy())


def test_padding_does_not_matter(owl):
    ids = reference.draw_ids(67)
    mask = np.ones_like(ids)
    mask[0, :5] = mask[1, 12:] = 0
    together = owl.generate(ids, attention_mask=mask, max_new_tokens=9, eos_token_id=-1)
    alone = [
        owl.generate(row[keep == 1][None], max_new_tokens=9, eos_token_id=-1)
        for row, keep in zip(ids, mask, strict=True)
    ]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_our_export_is_what_transformers_reads(name, owl, directory, tmp_path):
    owl.save(tmp_path / "export")
    exported, original = (
        load_file(path / "model.safetensors") for path in (tmp_path / "export", directory)
    )
    if name == "bloom":
        original.pop("lm_head.weight", None)  # the embedding once more
    assert exported.keys() == original.keys()
    for tensor, value in original.items():
        torch.testing.assert_close(exported[tensor], value, rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of tensors that it misses
        read = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "export", attn_implementation="eager", dtype=torch.float32
        )
    ids = reference.draw_ids(67)
    reference.assert_close(reference.logits(read, ids), reference.logits(make(name), ids))


@pytest.mark.parametrize("version", [4, 5])
def test_config_json_of_both_versions(version, owl, directory, tmp_path):
    """transformers 4 has the angles in rope_theta and rope_scaling and omits defaults."""
    values = json.loads((directory / "config.json").read_text())
    if version == 4:
        rope = values.pop("rope_parameters", None)
        if rope is not None:
            values["rope_theta"] = rope.pop("rope_theta")
            values["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        values["torch_dtype"] = values.pop("dtype")
        values.pop("layer_types", None)
        if values["model_type"] != "qwen3" and values.get("head_dim") == 8:
            del values["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").symlink_to(directory / "model.safetensors")
    assert open_subtrees(tmp_path, ["llm"]).config == owl.config


def test_our_own_format(owl, directory, tmp_path):
    owl.save(tmp_path / "own", format="orbax")
    again = owl_jax.load(tmp_path / "own", "float32")
    assert again.config == owl.config
    ids = reference.draw_ids(67)
    np.testing.assert_array_equal(again.logits(ids), owl.logits(ids))


def test_int8(owl, directory):
    ids = reference.draw_ids(67)
    exact = np.asarray(owl.logits(ids))
    rounded = np.asarray(owl_jax.load(directory, "int8").logits(ids))
    assert 0 < np.linalg.norm(rounded - exact) < 0.05 * np.linalg.norm(exact)


def test_peft_s_adapter(name, owl, directory, tmp_path):
    torch.manual_seed(0)
    targets = TARGETS.get(name, TARGETS[None])
    config = peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(make(name), config).eval()
    model.save_pretrained(tmp_path)
    ids = reference.draw_ids(67)
    adapted = owl_jax.load(directory, "float32", tmp_path)
    reference.assert_close(adapted.logits(ids), reference.logits(model, ids))
    assert np.abs(np.asarray(adapted.logits(ids) - owl.logits(ids))).max() > 0.1


def test_our_adapter(name, owl, directory, tmp_path):
    """Read by PEFT; and merged into what transformers reads."""
    targets = tuple(TARGETS.get(name, TARGETS[None]))
    config = dataclasses.replace(owl.config, lora=LoraConfig(3, 6.0, 0.1, targets))
    adapted = Owl(
        config,
        {**owl.params, "lora": jax.device_put(owls.draw(config)["lora"])},
        tokenizer_source=directory,
    )
    adapted.save(tmp_path / "adapter", format="peft")
    ids = reference.draw_ids(67)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of keys that it does not know, and of missing factors
        warnings.simplefilter("ignore", FutureWarning)  # PEFT calls what transformers deprecates
        model = peft.PeftModel.from_pretrained(make(name), tmp_path / "adapter").eval()
    ours = adapted.logits(ids)
    reference.assert_close(ours, reference.logits(model, ids))
    adapted.save(tmp_path / "merged")
    read = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", attn_implementation="eager", dtype=torch.float32
    )
    reference.assert_close(ours, reference.logits(read, ids))


def test_stage_1_starts_from_it(name, owl, directory, tmp_path):
    """As config.init.llm; with fields that shapes do not show, such as the angles, compared."""
    model = owls.small(owl.config.llm)
    others = {name: value for name, value in owls.draw(model).items() if name != "llm"}
    save_model(tmp_path / "others", model, others, "orbax")
    config = base_config(model)
    config.init = {name: str(tmp_path / "others") for name in others} | {"llm": str(directory)}
    config.batch_size, config.frozen_dtype = 8, "float32"
    config.rules = (("connector/.*", "recipe"), (".*", "frozen"))
    config.recipes.recipe = {"learning_rate": 1e-3}
    mesh = make_mesh(data=1, fsdp=-1, tensor=2, devices=jax.devices())
    params = initialize(config, make_program(config, mesh))
    jax.tree.map(np.testing.assert_array_equal, params["llm"], owl.params["llm"])
    jax.tree.map(np.testing.assert_array_equal, params["vision"], others["vision"])

    field, value = ("layer_norm_eps", 0.1) if name == "bloom" else ("rope_theta", 7.0)
    config.model.llm[field] = value
    program = make_program(config, mesh)
    with pytest.raises(UserError, match=f"has {field} .*but config.model.llm.{field} is {value}"):
        initialize(config, program)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window = True"),
        ("qwen3", {"attention_bias": True}, "attention_bias = True: not supported"),
        ("llama", {"head_dim": 9}, "llm.head_width 9 is odd: rotary positions"),
        ("llama", {"num_key_value_heads": 4}, "num_heads 6 is not a multiple of llm.num_kv_h"),
        ("llama", {"hidden_size": 47, "head_dim": None}, "hidden_size 47 is not a multiple of"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope of type 'yarn'"),
        ("llama", {"model_type": "gemma"}, "model_type is 'gemma'; expected one of mplug-owl, "),
        ("mistral", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; owl_jax's mistral has silu"),
    ],
)
def test_other_models_are_refused_in_one_line(name, changes, message, tmp_path):
    values = {**MODELS[name][0](**SIZES).to_dict(), **changes}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message) as caught:
        owl_jax.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_media_are_refused(owl):
    size = golden.model(golden.LLAMA)[0].image_size
    with pytest.raises(UserError, match="no vision encoder: it takes no images"):
        owl.generate([[-1] * 65], images=np.zeros((1, size, size, 3), np.uint8))
    with pytest.raises(UserError, match="no vision encoder: it takes no videos"):
        owl.num_tokens("video")
