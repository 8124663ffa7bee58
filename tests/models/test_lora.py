"""LoRA: the identity at start, the same merged and apart, and nothing else touched."""

import dataclasses
import functools

import flax.linen as nn
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from owl_jax.errors import UserError
from owl_jax.models.config import Compute, LoraConfig, OwlConfig
from owl_jax.models.lora import merge
from owl_jax.models.owl import init_params
from owl_jax.models.stack import unstack

EVERYWHERE = {
    golden.LLAMA: ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    golden.BLOOM: ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}
WORDS = np.array([[1, 20, 30, 40, 50, 60], [1, 25, 35, 45, 55, 65]])


@functools.cache
def _adapted(case, rank=4):
    """The config of a case with an adapter on every projection, its base and fresh factors."""
    config, params = golden.model(case)
    config = dataclasses.replace(config, lora=LoraConfig(rank, 8.0, 0.0, EVERYWHERE[case]))
    make = jax.jit(lambda key: nn.meta.unbox(init_params(config, Compute(), key)["lora"]))
    return config, params, make(jax.random.key(0))


def _trained(factors):
    """Factors as after a training: B is no longer zero."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + random.normal(0, 0.05, x.shape).astype(np.float32), factors)


def _logits(config, params, llm=None, lora=None):
    if llm is not None:
        config, params = dataclasses.replace(config, lora=None), {**params, "llm": llm}
    if lora is not None:
        params = {**params, "lora": lora}
    return golden.jitted_forward(config, Compute(), params, **golden.rows(config, WORDS))


@pytest.mark.parametrize("case", EVERYWHERE)
def test_fresh_adapter_changes_nothing(case):
    config, params, factors = _adapted(case)
    np.testing.assert_array_equal(
        _logits(config, params, lora=factors), _logits(config, params, llm=params["llm"])
    )


@pytest.mark.parametrize("case", EVERYWHERE)
def test_merged_equals_unmerged(case):
    config, params, factors = _adapted(case)
    factors = _trained(factors)
    apart = _logits(config, params, lora=factors)
    merged = _logits(config, params, llm=merge(params["llm"], factors, config.lora))
    base = _logits(config, params, llm=params["llm"])
    assert np.linalg.norm(merged - apart) < 1e-5 * np.linalg.norm(apart)
    assert np.linalg.norm(merged - base) > 0.1 * np.linalg.norm(base)


def test_factors_start_as_those_of_peft():
    """A is uniform within 1 / sqrt(inputs), B is zero, and layers differ."""
    config, _, factors = _adapted(golden.LLAMA, rank=32)
    llm = config.llm
    for name, factor in factors["layers"].items():
        inputs = llm.intermediate_size if name == "down_proj" else llm.hidden_size
        bound = inputs**-0.5
        assert 0.9 * bound < np.abs(factor["a"]).max() <= bound, name
        assert np.std(factor["a"]) == pytest.approx(bound / 3**0.5, rel=0.1), name
        assert np.abs(factor["a"][0] - factor["a"][1]).max() > 0.5 * bound, name
        assert not factor["b"].any(), name


@pytest.mark.parametrize("case", EVERYWHERE)
def test_merge_touches_only_the_kernels_it_targets(case):
    config, params, factors = _adapted(case)
    target = EVERYWHERE[case][0]
    lora = dataclasses.replace(config.lora, targets=(target,))
    factor = _trained(factors)["layers"][target]
    merged = flatten_dict(merge(params["llm"], {"layers": {target: factor}}, lora))
    base = flatten_dict(params["llm"])
    assert merged.keys() == base.keys()
    adapted = ("layers", target, "kernel")
    for path, value in base.items():
        if path != adapted:
            np.testing.assert_array_equal(merged[path], value)
    for layer in range(config.llm.num_layers):
        delta = 8.0 / 4 * np.einsum("dr,r...->d...", factor["a"][layer], factor["b"][layer])
        expected = base[adapted][layer] + delta
        np.testing.assert_allclose(merged[adapted][layer], expected, atol=1e-6)


def test_merge_of_unrolled_layers_equals_merge_of_stacked_ones():
    config, params, factors = _adapted(golden.LLAMA)
    factors = _trained(factors)
    stacked = unstack(merge(params["llm"], factors, config.lora))
    unrolled = merge(unstack(params["llm"]), unstack(factors), config.lora)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), unrolled, stacked)


def test_merge_keeps_the_kernel_dtype_and_adds_in_float32():
    kernel = jnp.asarray([[1.0, 2.0]], jnp.bfloat16)
    factors = {"p": {"a": jnp.asarray([[0.5]]), "b": jnp.asarray([[0.01, 0.03]])}}
    merged = merge({"p": {"kernel": kernel}}, factors, LoraConfig(rank=1, alpha=1.0))
    assert merged["p"]["kernel"].dtype == jnp.bfloat16
    expected = jnp.asarray([[1.005, 2.015]], jnp.float32).astype(jnp.bfloat16)
    np.testing.assert_array_equal(merged["p"]["kernel"], expected)


def test_factor_without_projection_is_an_error():
    factors = {"nowhere": {"a": jnp.ones((1, 1)), "b": jnp.ones((1, 1))}}
    with pytest.raises(KeyError, match="nowhere"):
        merge({"p": {"kernel": jnp.ones((1, 1))}}, factors, LoraConfig(rank=1, alpha=1.0))


def test_misspelt_target_is_an_error_that_names_it():
    config = OwlConfig(lora=LoraConfig(targets=("q_proj", "vproj")))
    with pytest.raises(UserError, match="vproj: llama has no such projection"):
        jax.eval_shape(lambda key: init_params(config, Compute(), key), jax.random.key(0))
