"""LoRA: a new adapter changes nothing, merged equals unmerged, and no other weight changes."""

import dataclasses
import functools

import flax.linen as nn
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from owl_jax.errors import UserError
from owl_jax.models.compute import Compute
from owl_jax.models.families.mplug_owl import variant
from owl_jax.models.lora import LoraConfig, dropout, merge
from owl_jax.models.stack import unstack
from owl_jax.models.vlm import init_params
from owl_jax.parallel.mesh import make_mesh

EVERYWHERE = {
    golden.LLAMA: ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    golden.BLOOM: ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}
WORDS = np.array([[1, 20, 30, 40, 50, 60], [1, 25, 35, 45, 55, 65]])


@functools.cache
def _adapted(case, rank=4):
    """The config of a case with an adapter on every projection, its base and new factors."""
    config, params = golden.model(case)
    config = dataclasses.replace(config, lora=LoraConfig(rank, 8.0, 0.0, EVERYWHERE[case]))
    make = jax.jit(lambda key: nn.meta.unbox(init_params(config, Compute(), key)["lora"]))
    return config, params, make(jax.random.key(0))


def _trained(factors):
    """Factors as after training: B is not zero."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + random.normal(0, 0.05, x.shape).astype(np.float32), factors)


def _logits(config, params, llm=None, lora=None):
    if llm is not None:
        config, params = dataclasses.replace(config, lora=None), {**params, "llm": llm}
    if lora is not None:
        params = {**params, "lora": lora}
    return golden.jitted_forward(config, Compute(), params, **golden.rows(config, WORDS))


@pytest.mark.parametrize("case", EVERYWHERE)
def test_new_adapter_changes_nothing(case):
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


def test_factors_are_initialised_as_in_peft():
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
def test_merge_changes_only_adapted_kernels(case):
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


def test_merge_of_unrolled_layers_equals_that_of_stacked_layers():
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
    config = dataclasses.replace(variant("llama"), lora=LoraConfig(targets=("q_proj", "vproj")))
    with pytest.raises(UserError, match="vproj: llama has no such projection"):
        jax.eval_shape(lambda key: init_params(config, Compute(), key), jax.random.key(0))


KEY = jax.random.key(3)


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_dropout_rate_and_scale(rate):
    """Within four standard deviations in each half of the width, and between the two halves."""
    kept = np.asarray(dropout(KEY, jnp.ones((500, 400)), rate))
    scale = 65536 / round((1 - rate) * 65536)
    assert set(np.unique(kept)) == {np.float32(0), np.float32(scale)}
    mask = kept != 0
    for part in (mask[:, :200], mask[:, 200:]):
        assert abs(part.mean() - (1 - rate)) < 4 * (rate * (1 - rate) / part.size) ** 0.5
    together = (mask[:, :200] & mask[:, 200:]).mean()
    both = (1 - rate) ** 2
    assert abs(together - both) < 4 * (both * (1 - both) / 100_000) ** 0.5


def test_dropout_draws_for_every_element():
    """All rows differ, all columns differ, and another key gives another mask."""
    mask = np.asarray(dropout(KEY, jnp.ones((64, 64)), 0.5)) != 0
    assert len(np.unique(mask, axis=0)) == len(np.unique(mask, axis=1)) == 64
    other = np.asarray(dropout(jax.random.key(4), jnp.ones((64, 64)), 0.5)) != 0
    assert 0.4 < (mask == other).mean() < 0.6


@pytest.mark.parametrize("width", [1, 7, 8])
def test_dropout_of_any_width_keeps_shape_and_dtype(width):
    y = dropout(KEY, jnp.ones((100, width), jnp.bfloat16), 0.25)
    assert y.shape == (100, width) and y.dtype == jnp.bfloat16
    assert set(np.unique(y.astype(np.float32))) == {0, float(jnp.bfloat16(4 / 3))}
    assert all(0 < (y[:, column] != 0).sum() < 100 for column in range(width))


def test_dropout_rates_0_and_1():
    x = jnp.arange(1.0, 9.0)
    np.testing.assert_array_equal(dropout(KEY, x, 0.0), x)
    gradient = jax.grad(lambda x: dropout(KEY, x, 1.0).sum())(x)
    np.testing.assert_array_equal(gradient, jnp.zeros(8))


def test_dropout_is_the_same_on_eight_devices():
    x = jnp.arange(1.0, 1 + 16 * 8 * 6).reshape(16, 8, 6)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    drop = jax.jit(dropout, static_argnums=2)
    expected = drop(KEY, x, 0.5)
    for spec in (PartitionSpec(("data", "fsdp")), PartitionSpec("data", None, "tensor")):
        spread = jax.device_put(x, NamedSharding(mesh, spec))
        np.testing.assert_array_equal(drop(KEY, spread, 0.5), expected)


def test_dropout_gradient_has_the_same_mask_when_recomputed():
    x = jnp.arange(1.0, 101.0)
    expected = dropout(KEY, x, 0.3) / x
    recomputed = jax.checkpoint(lambda x: jnp.square(dropout(KEY, x, 0.3)).sum())
    np.testing.assert_allclose(jax.grad(recomputed)(x), 2 * expected**2 * x, rtol=1e-6)
