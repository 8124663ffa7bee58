"""adapter_config.json: what is understood, key by key; the rest is refused by name."""

import json
import time

import pytest
from directories import ADAPTER

from owl_jax.checkpoint.peft_config import named_targets, read_peft_config
from owl_jax.checkpoint.schema import ADAPTER_FILE
from owl_jax.errors import UserError

RECORDED = json.loads((ADAPTER / ADAPTER_FILE).read_text())
MODULES = {
    name: [f"language_model.model.layers.{i}.self_attn.{name}" for i in range(32)]
    for name in ("q_proj", "k_proj", "v_proj", "o_proj")
}


def _read(directory, **options):
    path = directory / ADAPTER_FILE
    path.write_text(json.dumps({**RECORDED, **options}))
    return read_peft_config(path)


@pytest.mark.parametrize(
    "options",
    [
        {"init_lora_weights": value}
        for value in (True, False, None, "gaussian", "eva", "orthogonal", "mica")
    ]
    + [
        {"rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": [], "use_dora": False},
        {"eva_config": {"rho": 2.0}, "megatron_core": "megatron.core", "task_type": "CAUSAL_LM"},
        {"peft_version": "0.21.2", "qalora_group_size": 16, "base_model_name_or_path": None},
        {"a_key_of_tomorrow": False, "another": None, "a_third": []},
    ],
)
def test_plain_lora_is_read(options, tmp_path):
    said = _read(tmp_path, **options)
    assert (said.r, said.lora_alpha, said.lora_dropout) == (8, 32, 0.05)


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"fan_in_fan_out": True},
        {"bias": "all"},
        {"lora_bias": True},
        {"layers_to_transform": 0},
        {"layers_to_transform": [1]},
        {"layers_pattern": "layers"},
        {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 4}},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [3]},
        {"exclude_modules": ["v_proj"]},
        {"layer_replication": [[0, 1]]},
        {"megatron_config": {"x": 1}},
        {"use_qalora": True},
        {"arrow_config": {"top_k": 2}},
        {"target_parameters": ["experts"]},
        {"alora_invocation_tokens": [1, 2]},
        {"ensure_weight_tying": True},
        {"use_bdlora": {"n": 2}},
        {"kasa_config": {"beta": 1}},
        {"velora_config": {"n": 2}},
        {"monteclora_config": {"n": 2}},
        {"a_key_of_tomorrow": "on"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_more_than_plain_lora_is_refused_by_name(options, tmp_path):
    with pytest.raises(UserError, match=f"not supported: {next(iter(options))}; expected plain"):
        _read(tmp_path, **options)


@pytest.mark.parametrize("name", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"])
def test_initialisation_that_changes_the_base_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=f"init_lora_weights '{name}', which .*for_weight_conv"):
        _read(tmp_path, init_lora_weights=name)


@pytest.mark.parametrize("value", ["svd", 3, ["gaussian"], {}])
def test_unknown_initialisation_is_refused(value, tmp_path):
    with pytest.raises(UserError, match=r"init_lora_weights .*; expected true, false or one of"):
        _read(tmp_path, init_lora_weights=value)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("r", ("8", 8.0, None, 0, -4, True, 10**9, [8])),
        ("lora_alpha", ("32", None, 0, -1, float("nan"), float("inf"), True, 10**400)),
        ("lora_dropout", ("0.1", -0.1, 1, 1.5, float("nan"))),
        ("target_modules", (5, {"q_proj": 1}, [1], [""], ["q_proj"] * 1001, "q" * 2001)),
        ("inference_mode", ("yes", 1)),
        ("base_model_name_or_path", (5, ["x"])),
    ],
)
def test_values_that_make_no_sense(key, values, tmp_path):
    for value in values:
        with pytest.raises(UserError) as caught:
            _read(tmp_path, **{key: value})
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / ADAPTER_FILE}: {key}"), value
        assert "expected" in message or "out of range" in message
        assert len(message) < 400


def test_names_and_their_ends(tmp_path):
    found = named_targets(["v_proj", "self_attn.q_proj", "_proj", "proj"], MODULES, tmp_path)
    assert found == ("q_proj", "v_proj")
    pattern = r"^(?!.*vision).*\.[qk]_proj$"
    assert named_targets(pattern, MODULES, tmp_path) == ("q_proj", "k_proj")


@pytest.mark.parametrize(
    "pattern",
    [
        r"(\w|\w\w|.)+[A-Z]",
        r"(?:.{0,1000}){0,1000}[A-Z]",
        r"(?:l|la|lan|.)*(?:.|..|...)*[A-Z]",
        ".*?" * 600 + "[A-Z]",
    ],
    ids=["alternatives", "counted", "two", "lazy"],
)
def test_pattern_without_end_ends(pattern, tmp_path):
    start = time.monotonic()
    with pytest.raises(UserError, match="takes too long to match"):
        named_targets(pattern, MODULES, tmp_path)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("pattern", ["(q_proj", "[", "a{99999999999}", "(" * 900 + ")" * 900])
def test_pattern_that_is_none(pattern, tmp_path):
    with pytest.raises(UserError, match="target_modules '"):
        named_targets(pattern, MODULES, tmp_path)
