"""Eight devices do what one does: loss, weights and moments after the steps of both stages."""

import dataclasses
from functools import cache

import flax.linen as nn
import jax
import numpy as np
import pytest
import small_step
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from small_step import LLAMA, OWL2

from owl_jax.data.batch import Batch
from owl_jax.models.compute import Compute
from owl_jax.models.families.mplug_owl import LORA, VARIANTS
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vlm import init_params
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules, param_shardings, shard_batch
from owl_jax.training.partition import split
from owl_jax.training.state import new_state, place_state

RULES = LogicalRules()
BLOOM = dataclasses.replace(
    LLAMA,
    llm=BloomConfig(64, 16, num_layers=2, num_heads=2),
    lora=LoraConfig(2, 4.0, dropout=0.0, targets=("query_key_value",)),
)
MODELS = {
    ("llama", "stage1"): dataclasses.replace(LLAMA, lora=None),
    ("llama", "stage2"): LLAMA,
    ("bloom", "stage2"): BLOOM,
    ("owl2", "owl2/stage1"): OWL2,
    ("owl2", "owl2/stage2"): OWL2,
}
STEPS = 2


@cache
def boxed_params(config):
    return jax.eval_shape(lambda key: init_params(config, Compute(), key), jax.random.key(0))


def batch_of(config):
    return small_step.make_batch(config, (1, 12, 1, 3, 1, 12, 2, 3))


@cache
def one_device(name, stage):
    """The losses and the last state of `STEPS` steps on one device."""
    config = MODELS[name, stage]
    pieces = small_step.take_apart(config, small_step.stage_rules(stage))
    step = jax.jit(pieces.step)
    state, losses = new_state(pieces.trainable, pieces.optimizer), []
    for _ in range(STEPS):
        state, metrics = step(state, pieces.frozen, batch_of(config))
        losses.append(metrics["loss"])
    return losses, state


def eight_devices(name, stage, sizes, accumulate=1):
    """The same on a mesh, the way training/loop.py goes about it; and the state at the start."""
    config, mesh = MODELS[name, stage], make_mesh(*sizes)
    pieces = small_step.take_apart(config, small_step.stage_rules(stage), accumulate)
    shardings = split(param_shardings(boxed_params(config), mesh, RULES), pieces.labels)
    trainable, frozen = jax.device_put((pieces.trainable, pieces.frozen), shardings)
    state = place_state(trainable, pieces.optimizer, shardings[0], mesh)
    placements = jax.tree.map(lambda x: x.sharding, state)
    batch = Batch(**shard_batch(vars(batch_of(config)), mesh))
    losses = []
    step = jax.jit(pieces.step, donate_argnums=0)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES.flax_rules()):
        for _ in range(STEPS):
            state, metrics = step(state, frozen, batch)
            losses.append(metrics["loss"])
    return losses, state, placements


@pytest.mark.parametrize(
    ("name", "stage", "sizes"),
    [
        ("llama", "stage1", (8, 1, 1)),
        ("llama", "stage1", (1, 8, 1)),
        ("llama", "stage1", (2, 2, 2)),
        ("llama", "stage2", (8, 1, 1)),
        ("llama", "stage2", (1, 8, 1)),
        ("llama", "stage2", (2, 2, 2)),
        ("bloom", "stage2", (2, 2, 2)),
        ("owl2", "owl2/stage1", (2, 2, 2)),
        ("owl2", "owl2/stage2", (2, 2, 2)),
    ],
)
def test_a_mesh_trains_as_one_device_does(name, stage, sizes):
    losses, state, placements = eight_devices(name, stage, sizes)
    expected_losses, expected = one_device(name, stage)
    np.testing.assert_allclose(losses, expected_losses, atol=1e-5)
    assert abs(losses[1] - losses[0]) > 1e-3
    for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    for leaf, mask in zip(jax.tree.leaves(state), jax.tree.leaves(placements), strict=True):
        assert leaf.sharding.is_equivalent_to(mask, leaf.ndim)


def test_micro_batches_on_a_mesh():
    losses, state, _ = eight_devices("llama", "stage2", (2, 2, 2), accumulate=2)
    expected_losses, expected = one_device("llama", "stage2")
    np.testing.assert_allclose(losses, expected_losses, atol=1e-5)
    for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_weights_and_moments_are_split():
    pieces = small_step.take_apart(LLAMA, small_step.stage_rules("stage2"))
    mesh = make_mesh(2, 2, 2)
    shardings, _ = split(param_shardings(boxed_params(LLAMA), mesh, RULES), pieces.labels)
    state = place_state(
        jax.device_put(pieces.trainable, shardings), pieces.optimizer, shardings, mesh
    )
    expected = {
        "connector/layers/gate/kernel": (P(None, "fsdp", "tensor"), 4),
        "lora/layers/v_proj/a": (P(None, "fsdp", None), 2),
        "lora/layers/v_proj/b": (P(None, None, "tensor", None), 2),
        "connector/queries": (P(None, "fsdp"), 2),
    }
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(state)
    }
    for path, (spec, parts) in expected.items():
        found = [leaf for name, leaf in leaves.items() if name.endswith(path)]
        assert len(found) == 3, (path, list(leaves))  # the weight and its two moments
        for leaf in found:
            assert leaf.sharding.is_equivalent_to(NamedSharding(mesh, spec), leaf.ndim)
            assert leaf.addressable_shards[0].data.size * parts == leaf.size


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_of_the_released_variants_fits_the_mesh(name):
    config = dataclasses.replace(VARIANTS[name], lora=LORA[name])
    mesh, boxed = make_mesh(2, 2, 2), boxed_params(config)
    names = flatten_dict(nn.get_partition_spec(boxed), sep="/")
    whole = []
    for path, sharding in flatten_dict(param_shardings(boxed, mesh, RULES), sep="/").items():
        # Nothing is replicated because its size cannot be divided.
        assert sharding.spec == RULES.spec(tuple(names[path])), path
        if sharding.is_fully_replicated:
            whole.append(path)
    assert whole == []
