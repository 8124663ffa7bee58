"""PEFT directories: read as PEFT wrote them, written back equal, refused when they do not fit."""

import dataclasses
import functools
import json
import re
import shutil

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from read_whole import read_adapter
from safetensors.numpy import load_file, save_file

from owl_jax.checkpoint.adapter import WEIGHTS_FILE, merge_lazy, open_adapter, write_adapter
from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.lazy_arrays import device_put_lazy, read
from owl_jax.checkpoint.schema import ADAPTER_FILE
from owl_jax.errors import UserError
from owl_jax.models.lora import LoraConfig, merge
from owl_jax.parallel.mesh import make_mesh

RECORDED = golden.GOLDENS / golden.LORA
BASE, _ = golden.model(golden.LLAMA)
PREFIX = "base_model.model.language_model.model.layers"


def _copy(target, **options):
    """A copy of the recorded adapter with other options."""
    shutil.copyfile(RECORDED / WEIGHTS_FILE, target / WEIGHTS_FILE)
    values = json.loads((RECORDED / ADAPTER_FILE).read_text())
    (target / ADAPTER_FILE).write_text(json.dumps({**values, **options}))


def _random(config):
    """An adapter of random numbers for a config with `lora`."""
    random = np.random.default_rng(0)
    draw = lambda x: random.normal(size=x.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, abstract_params(config)["lora"])


def test_recorded_adapter_is_written_as_it_was_read(tmp_path):
    lora_config, lora = read_adapter(RECORDED, BASE, np.float32)
    assert lora_config == LoraConfig(8, 32, 0.05, ("q_proj", "v_proj"))
    write_adapter(dataclasses.replace(BASE, lora=lora_config), lora, tmp_path)
    written, recorded = load_file(tmp_path / WEIGHTS_FILE), load_file(RECORDED / WEIGHTS_FILE)
    assert written.keys() == recorded.keys()
    for name, value in recorded.items():
        assert written[name].dtype == value.dtype
        np.testing.assert_array_equal(written[name], value)
    values = [json.loads((path / ADAPTER_FILE).read_text()) for path in (tmp_path, RECORDED)]
    assert values[0] == values[1]


ADAPTED = pytest.mark.parametrize(
    ("case", "targets"),
    [
        (golden.LLAMA, ("q_proj", "o_proj", "down_proj")),
        (golden.BLOOM, ("query_key_value",)),
        (golden.BLOOM_6, ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")),
    ],
)


@ADAPTED
def test_round_trip(case, targets, tmp_path):
    base, _ = golden.model(case)
    config = dataclasses.replace(base, lora=LoraConfig(4, 8.0, 0.1, targets))
    lora = _random(config)
    write_adapter(config, lora, tmp_path, "some/model")
    read_config, read = read_adapter(tmp_path, base, np.float32)
    assert read_config == config.lora
    jax.tree.map(np.testing.assert_array_equal, read, lora)
    values = json.loads((tmp_path / ADAPTER_FILE).read_text())
    assert values["base_model_name_or_path"] == "some/model"


def test_names_and_shapes_of_blooms_fused_projection(tmp_path):
    base, _ = golden.model(golden.BLOOM)
    config = dataclasses.replace(base, lora=LoraConfig(4, targets=("query_key_value",)))
    lora = _random(config)
    write_adapter(config, lora, tmp_path)
    written = load_file(tmp_path / WEIGHTS_FILE)
    module = "base_model.model.language_model.transformer.h.1.self_attention.query_key_value"
    factor = lora["layers"]["query_key_value"]
    np.testing.assert_array_equal(written[f"{module}.lora_A.weight"], factor["a"][1].T)
    merged = factor["b"][1].reshape(4, 3 * base.llm.hidden_size)
    np.testing.assert_array_equal(written[f"{module}.lora_B.weight"], merged.T)


def test_written_pattern_names_the_modules_that_are_adapted(tmp_path):
    """PEFT matches it against the names of all modules, the vision encoder's too."""
    base, _ = golden.model(golden.BLOOM)
    config = dataclasses.replace(base, lora=LoraConfig(4, targets=("query_key_value", "dense")))
    write_adapter(config, _random(config), tmp_path)
    pattern = json.loads((tmp_path / ADAPTER_FILE).read_text())["target_modules"]
    linears = [
        name.removesuffix(".weight")
        for name, value in load_file(golden.GOLDENS / golden.BLOOM / "model.safetensors").items()
        if name.endswith(".weight") and value.ndim == 2
    ]
    adapted = {name for name in linears if re.fullmatch(pattern, name)}
    prefix, ending = "base_model.model.", ".lora_A.weight"
    names = [name for name in load_file(tmp_path / WEIGHTS_FILE) if name.endswith(ending)]
    assert adapted == {name.removeprefix(prefix).removesuffix(ending) for name in names}


@pytest.mark.parametrize(
    "target_modules",
    [["q_proj", "v_proj"], ["v_proj", "self_attn.q_proj"], r".*\.[qv]_proj"],
)
def test_targets_may_be_a_list_or_a_pattern(target_modules, tmp_path):
    _copy(tmp_path, target_modules=target_modules)
    lora_config, _ = read_adapter(tmp_path, BASE, np.float32)
    assert lora_config.targets == ("q_proj", "v_proj")


def test_factors_that_do_not_fit_are_all_listed(tmp_path):
    _copy(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    del tensors[f"{PREFIX}.0.self_attn.q_proj.lora_A.weight"]
    tensors["stranger"] = np.zeros(1, np.float32)
    tensors[f"{PREFIX}.1.self_attn.v_proj.lora_B.weight"] = np.zeros((48, 4), np.float32)
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    with pytest.raises(UserError) as caught:
        read_adapter(tmp_path, BASE, np.float32)
    assert str(caught.value) == (
        f"{tmp_path}: tensors that do not fit the model (3): "
        f"missing: {PREFIX}.0.self_attn.q_proj.lora_A.weight; unexpected: stranger; "
        f"of another shape: {PREFIX}.1.self_attn.v_proj.lora_B.weight "
        "(found (48, 4), expected (48, 8))"
    )


def test_another_rank_than_the_config_says_lists_every_factor(tmp_path):
    _copy(tmp_path, r=4)
    with pytest.raises(
        UserError, match=r"\(8\): of another shape: .*found \(8, 48\), expected \(4, 48\)"
    ):
        read_adapter(tmp_path, BASE, np.float32)


def test_adapter_of_a_deeper_base_is_an_error():
    shallow = dataclasses.replace(BASE, llm=dataclasses.replace(BASE.llm, num_layers=1))
    with pytest.raises(UserError, match=rf"unexpected: {PREFIX}\.1\."):
        read_adapter(RECORDED, shallow, np.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["query_key_value"]}, "names no projection .* it has q_proj, k_proj"),
        ({"target_modules": None}, "names no projection"),
        ({"target_modules": "(q_proj"}, "target_modules '.q_proj': missing"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'; expected 'LORA'"),
        ({"use_rslora": True, "alpha_pattern": {"q": 1}}, "not supported: alpha_pattern, use_rsl"),
    ],
)
def test_unsuitable_config_is_an_error(options, message, tmp_path):
    _copy(tmp_path, **options)
    with pytest.raises(UserError, match=message):
        read_adapter(tmp_path, BASE, np.float32)


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        read_adapter(tmp_path, BASE, np.float32)
    _copy(tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
        read_adapter(tmp_path, BASE, np.float32)
    (tmp_path / ADAPTER_FILE).write_text('{"peft_type": "LORA", "target_modules": ["q_proj"]}')
    with pytest.raises(UserError, match="no value for 'r'"):
        read_adapter(tmp_path, BASE, np.float32)


def test_model_without_adapter_writes_none(tmp_path):
    with pytest.raises(ValueError, match="no adapter"):
        write_adapter(BASE, {}, tmp_path)


@ADAPTED
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_as_it_is_read_equals_merged_in_memory(case, targets, dtype):
    base, params = golden.model(case)
    lora = LoraConfig(4, 8.0, targets=targets)
    factors = _random(dataclasses.replace(base, lora=lora))
    llm = jax.tree.map(lambda x: x.astype(dtype), params["llm"])
    merged = jax.tree.map(read, merge_lazy(llm, factors, lora))
    expected = jax.tree.map(np.asarray, merge(jax.tree.map(jnp.asarray, llm), factors, lora))
    assert jax.tree.structure(merged) == jax.tree.structure(expected)
    for path, value in jax.tree_util.tree_leaves_with_path(expected):
        found = functools.reduce(lambda tree, key: tree[key.key], path, merged)
        assert found.dtype == value.dtype
        np.testing.assert_allclose(
            # Sums in another order may round to the next bfloat16.
            found.astype(np.float32),
            value.astype(np.float32),
            rtol=1e-6 if dtype == "float32" else 2**-7,
            atol=1e-6,
        )
        if dtype == "bfloat16":
            assert np.mean(found != value) < 0.001
    for name in targets:
        kernels = [tree["layers"][name]["kernel"] for tree in (merged, llm)]
        assert np.mean(kernels[0] != kernels[1]) > 0.9


def test_parts_of_a_merged_kernel():
    lora, factors = open_adapter(RECORDED, BASE)
    llm = merge_lazy(golden.model(golden.LLAMA)[1]["llm"], factors, lora)
    kernel = llm["layers"]["q_proj"]["kernel"]
    whole = read(kernel)
    part = (slice(1, 2), slice(5, 20), slice(1, 3), slice(0, 7))
    np.testing.assert_allclose(kernel[part], whole[part], rtol=1e-6, atol=1e-6)
    sharding = NamedSharding(make_mesh(2, 2, 2), P(None, "fsdp", "tensor"))
    np.testing.assert_allclose(device_put_lazy(kernel, None, sharding), whole, rtol=1e-6, atol=1e-6)
    # What is not adapted is what it was.
    assert llm["norm"]["scale"] is golden.model(golden.LLAMA)[1]["llm"]["norm"]["scale"]


def test_adapter_of_a_bare_language_model_is_read(tmp_path):
    """PEFT around the language model alone leaves `language_model.` out of the names."""
    _copy(tmp_path, target_modules=["q_proj", "v_proj"])
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    bare = {name.replace("language_model.", ""): value for name, value in tensors.items()}
    save_file(bare, tmp_path / WEIGHTS_FILE)
    read_back, recorded = (read_adapter(path, BASE, np.float32) for path in (tmp_path, RECORDED))
    jax.tree.map(np.testing.assert_array_equal, read_back[1], recorded[1])
