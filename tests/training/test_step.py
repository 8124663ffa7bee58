import dataclasses
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_step
from flax.traverse_util import flatten_dict
from small_step import LLAMA, make_batch

from owl_jax.models.compute import Compute
from owl_jax.models.vlm import forward, init_params
from owl_jax.training.partition import merge
from owl_jax.training.state import new_state

RULES = small_step.stage_rules("stage2")
# By micro-batch: 5 and 30 tokens in two of them, 2, 24, 3 and 6 in four.
UNEQUAL = (1, 12, 1, 3, 1, 12, 2, 3)


@cache
def prepared(accumulate, dropout=0.0, scan_layers=True):
    """The pieces, the compiled step, and the trees of gradients that it traced."""
    seen = []

    def look(grads, state, params=None):
        seen.append(grads)
        return grads, state

    recorder = optax.GradientTransformation(lambda params: optax.EmptyState(), look)
    config = dataclasses.replace(LLAMA, lora=dataclasses.replace(LLAMA.lora, dropout=dropout))
    compute = Compute(scan_layers=scan_layers)
    pieces = small_step.take_apart(config, RULES, accumulate, compute, recorder)
    return pieces, jax.jit(pieces.step), seen


def start(pieces):
    return new_state(jax.tree.map(jnp.asarray, pieces.trainable), pieces.optimizer)


def assert_same(got, expected, atol=0.0):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@partial(jax.jit, static_argnums=0)
def logits_of(config, params, batch):
    return forward(
        config,
        Compute(),
        params,
        batch.input_ids,
        batch.positions,
        batch.segment_ids,
        batch.media_index,
        batch.images,
    )


def loss_in_numpy(logits, batch):
    """float64: summed loss and supervised tokens of each row."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_probs, batch.targets[..., None], -1)[..., 0]
    return -(chosen * batch.loss_mask).sum(1), batch.loss_mask.sum(1)


def test_frozen_weights_have_no_gradient_no_moments_no_master_and_stay():
    pieces, step, seen = prepared(1)
    before = small_step.draw_params(LLAMA)
    state, batch = start(pieces), make_batch(LLAMA, UNEQUAL)
    for _ in range(3):
        state, _ = step(state, pieces.frozen, batch)

    after = flatten_dict(merge(state.params, pieces.frozen), sep="/")
    moved = {path for path, x in flatten_dict(before, sep="/").items() if (after[path] != x).any()}
    # A key's bias shifts all scores of a query alike: its gradient is zero but for rounding.
    expected = {path for path in after if path.startswith(("lora/", "connector/"))}
    assert moved | {"connector/layers/key/bias"} == expected

    shapes = {path: after[path].shape for path in expected}
    masters = flatten_dict(state.params, sep="/")
    assert {path: leaf.shape for path, leaf in masters.items()} == shapes
    assert {leaf.dtype for leaf in masters.values()} == {jnp.dtype("float32")}
    moments = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(moments) == sorted([*shapes.values()] * 2)
    gradients = flatten_dict(seen[0], sep="/")
    assert {path: leaf.shape for path, leaf in gradients.items()} == shapes


def test_a_new_adapter_changes_nothing():
    make = jax.jit(lambda key: nn.meta.unbox(init_params(LLAMA, Compute(), key))["lora"])
    params = {**small_step.draw_params(LLAMA), "lora": make(jax.random.key(0))}
    factors = flatten_dict(params["lora"], sep="/")
    for path, factor in factors.items():
        assert (np.abs(factor).max() > 0) == {"a": True, "b": False}[path.rpartition("/")[2]]
    base = {name: branch for name, branch in params.items() if name != "lora"}
    batch = make_batch(LLAMA, UNEQUAL)
    without = logits_of(dataclasses.replace(LLAMA, lora=None), base, batch)
    np.testing.assert_array_equal(logits_of(LLAMA, params, batch), without)


def test_the_loss_is_the_mean_over_supervised_tokens():
    pieces, step, _ = prepared(1)
    batch = make_batch(LLAMA, UNEQUAL)
    _, metrics = step(start(pieces), pieces.frozen, batch)
    logits = logits_of(LLAMA, small_step.draw_params(LLAMA), batch)
    total, tokens = (sums.sum() for sums in loss_in_numpy(logits, batch))
    assert tokens == metrics["supervised_tokens"] == sum(UNEQUAL)
    np.testing.assert_allclose(metrics["loss"], total / tokens, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_are_one_large_batch(accumulate):
    batch = make_batch(LLAMA, UNEQUAL)
    logits = logits_of(LLAMA, small_step.draw_params(LLAMA), batch)
    totals, tokens = (x.reshape(-1, accumulate).sum(0) for x in loss_in_numpy(logits, batch))
    assert abs((totals / tokens).mean() - totals.sum() / tokens.sum()) > 1e-3

    pieces, step, _ = prepared(1)
    _, in_parts, _ = prepared(accumulate)
    whole, expected = step(start(pieces), pieces.frozen, batch)
    parts, metrics = in_parts(start(pieces), pieces.frozen, batch)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=1e-5)
    assert metrics["supervised_tokens"] == expected["supervised_tokens"]
    assert_same(parts.params, whole.params, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_batch_without_supervised_tokens_changes_nothing(accumulate):
    pieces, step, _ = prepared(accumulate)
    batch = make_batch(LLAMA, (0,) * len(UNEQUAL))
    state, metrics = step(start(pieces), pieces.frozen, batch)
    assert metrics["loss"] == metrics["grad_norm"] == metrics["supervised_tokens"] == 0
    assert metrics["skipped"] == 0
    assert_same(state.params, pieces.trainable)


def test_micro_batches_without_supervised_tokens_do_not_count():
    pieces, step, _ = prepared(1)
    _, in_parts, _ = prepared(4)
    batch = make_batch(LLAMA, (3, 0, 0, 0, 5, 0, 0, 0))
    whole, expected = step(start(pieces), pieces.frozen, batch)
    parts, metrics = in_parts(start(pieces), pieces.frozen, batch)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
    assert_same(parts.params, whole.params, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_is_skipped_and_counted(bad):
    pieces, step, _ = prepared(1)
    batch = make_batch(LLAMA, UNEQUAL)
    broken = jax.tree.map(np.copy, pieces.frozen)
    broken["llm"]["norm"]["scale"][0] = bad
    first, _ = step(start(pieces), pieces.frozen, batch)
    second, _ = step(first, pieces.frozen, batch)

    state = first
    for count in (1, 2):
        state, metrics = step(state, broken, batch)
        assert not np.isfinite(metrics["loss"])
        assert metrics["skipped"] == metrics["skipped_in_a_row"] == state.skipped == count
        assert state.step == 1 + count
        assert_same((state.params, state.opt_state), (first.params, first.opt_state))
    state, metrics = step(state, pieces.frozen, batch)
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (2, 0)
    assert_same((state.params, state.opt_state), (second.params, second.opt_state))


def test_batches_with_and_without_pictures_are_one_program():
    pieces, step, seen = prepared(1)
    state = start(pieces)
    losses = []
    for pictures in (True, False):
        state, metrics = step(state, pieces.frozen, make_batch(LLAMA, UNEQUAL, pictures))
        losses.append(float(metrics["loss"]))
    assert len(seen) == 1
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]


def test_dropout_follows_from_seed_and_step():
    pieces, step, _ = prepared(1, dropout=0.5)
    batch = make_batch(LLAMA, UNEQUAL)
    state = start(pieces)

    def loss(state):
        return float(step(state, pieces.frozen, batch)[1]["loss"])

    assert loss(state) == loss(start(pieces))
    assert abs(loss(state) - loss(state.replace(step=state.step + 1))) > 1e-3


def test_unrolled_layers_take_the_same_step():
    pieces, step, _ = prepared(1)
    _, unrolled, _ = prepared(1, scan_layers=False)
    batch = make_batch(LLAMA, UNEQUAL)
    expected, _ = step(start(pieces), pieces.frozen, batch)
    state, _ = unrolled(start(pieces), pieces.frozen, batch)
    assert_same(state, expected, atol=1e-6)
