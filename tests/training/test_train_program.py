import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from small_step import CONFIGS, LENGTH, LLAMA, draw_params, make_batch

from owl_jax.data.batch import Batch
from owl_jax.errors import UserError
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import shard_batch
from owl_jax.training.config import base_config
from owl_jax.training.partition import FROZEN, split
from owl_jax.training.state import place_state
from owl_jax.training.train_program import make_program


def load(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()


def small_config(**values):
    """Stage 2 of the small model."""
    config = base_config(LLAMA)
    stage2 = load("stage2")
    config.rules, config.recipes = stage2.rules, stage2.recipes
    config.batch_size, config.steps = 16, 100
    config.data.sequence_length = LENGTH
    config.compute.attention = "xla"
    config.update(values)
    return config


def place(program):
    """Random weights where and as the program says."""
    return jax.tree.map(
        lambda array, leaf: jax.device_put(array.astype(leaf.dtype), leaf.sharding),
        draw_params(LLAMA),
        program.params,
    )


def describe(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding.spec), tree)


def test_each_leaf_in_its_dtype_and_place():
    program = make_program(small_config(), make_mesh(data=2, fsdp=2, tensor=2))
    q_proj = program.params["llm"]["layers"]["q_proj"]["kernel"]
    assert (q_proj.shape, q_proj.dtype) == ((2, 16, 2, 8), jnp.bfloat16)
    assert q_proj.sharding.spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert program.labels["llm"]["layers"]["q_proj"]["kernel"] == FROZEN
    assert program.params["lora"]["layers"]["q_proj"]["a"].dtype == jnp.float32


def test_the_state_is_what_training_places():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    program = make_program(small_config(), mesh)
    trainable, _ = split(place(program), program.labels)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, trainable)
    state = place_state(trainable, program.optimizer, shardings, mesh)
    assert describe(program.state()) == describe(state)


@pytest.mark.parametrize("values", [{}, {"gradient_accumulation_steps": 2}])
def test_the_step_runs_on_what_the_program_describes(values):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    program = make_program(small_config(**values), mesh)
    trainable, frozen = split(place(program), program.labels)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, trainable)
    state = place_state(trainable, program.optimizer, shardings, mesh)
    rows = make_batch(LLAMA, [3 + row % 5 for row in range(16)])
    batch = Batch(**shard_batch(vars(rows), mesh))
    described = program.batch()
    for name in ("input_ids", "loss_mask", "images"):
        assert getattr(described, name).shape == getattr(rows, name).shape
        assert getattr(described, name).dtype == getattr(rows, name).dtype
    with program.active():
        state, metrics = program.step(state, frozen, batch)
    assert np.isfinite(metrics["loss"]) and int(state.step) == 1


def test_tracing_the_7b_needs_no_memory():
    config = load("stage2")
    program = make_program(config, make_mesh())
    jaxpr = program.trace().jaxpr
    assert program.rows == 64 and len(jaxpr.in_avals) == len(
        jax.tree.leaves((program.state(), program.frozen(), program.batch()))
    )


def test_a_frozen_language_model_in_8_bits():
    program = make_program(small_config(frozen_dtype="int8"), make_mesh())
    q_proj = program.params["llm"]["layers"]["q_proj"]
    assert (q_proj["kernel"].dtype, q_proj["scale"].dtype) == (jnp.int8, jnp.float32)
    assert q_proj["scale"].shape == (2, 2, 8)
    assert program.labels["llm"]["layers"]["q_proj"] == {"kernel": FROZEN, "scale": FROZEN}
    assert program.params["vision"]["patch_embed"]["kernel"].dtype == jnp.bfloat16
    assert program.params["llm"]["lm_head"]["kernel"].dtype == jnp.bfloat16
    assert program.trace().out_info[1]["loss"].shape == ()


def test_a_trained_language_model_is_never_in_8_bits():
    config = small_config(frozen_dtype="int8")
    config.rules = (("(lora|llm)/.*", "lora"), (".*", "frozen"))
    with pytest.raises(UserError, match=r"config.rules train it \(recipe lora\); use bfloat16"):
        make_program(config, make_mesh())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 12}, r"batch_size=12 cannot be divided among 8 devices .*multiple of 8"),
        (
            {"batch_size": 16, "gradient_accumulation_steps": 4},
            "times config.gradient_accumulation_steps=4; make it a multiple of 32",
        ),
    ],
)
def test_a_batch_that_the_mesh_cannot_divide_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        make_program(small_config(**values), make_mesh(fsdp=8, data=1))


def test_all_training_configs_have_work():
    for name in ("stage1", "stage2", "stage2_full", "stage2_release"):
        program = make_program(load(name), make_mesh())
        per_token = program.flops() / (program.rows * program.row.length)
        assert 4 * 6.6e9 < per_token < 7.5 * 6.6e9


def test_unrolled_layers_get_frozen_weights_of_their_own():
    """The same loss; the stacked arrays are gone, and what is promised is what is given."""
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    losses = []
    for scan in (True, False):
        config = small_config()
        config.compute.scan_layers = scan
        program = make_program(config, mesh)
        trainable, frozen = split(place(program), program.labels)
        described, stacked = describe(frozen), frozen["llm"]["layers"]["q_proj"]["kernel"]
        values = np.asarray(stacked)
        frozen = program.arrange(frozen)
        assert describe(frozen) == describe(program.frozen())
        assert stacked.is_deleted() == (not scan)
        places = jax.tree.map(lambda leaf: leaf.sharding, trainable)
        state = place_state(trainable, program.optimizer, places, mesh)
        batch = Batch(**shard_batch(vars(make_batch(LLAMA, [3] * 16)), mesh))
        with program.active():
            _, metrics = program.step(state, frozen, batch)
        losses.append(float(metrics["loss"]))
        again = program.stacked(frozen)
        assert describe(again) == described
        np.testing.assert_array_equal(again["llm"]["layers"]["q_proj"]["kernel"], values)
    np.testing.assert_allclose(*losses, rtol=1e-3)
