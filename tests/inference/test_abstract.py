import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from owl_jax.checkpoint.int8 import quantize
from owl_jax.data.batch import SequenceShape
from owl_jax.errors import UserError
from owl_jax.inference import core
from owl_jax.inference.abstract import (
    abstract_prefilled,
    abstract_prompt,
    abstract_state,
    abstract_weights,
)
from owl_jax.inference.prompt import prompt_arrays
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules, on_mesh
from owl_jax.training.train_program import abstract_params

SMALL = OwlConfig(
    vision=ClipConfig(16, 8, 16, 32, num_layers=1, num_heads=2),
    connector=AbstractorConfig(2, 16, 32, num_layers=1, num_heads=2),
    llm=LlamaConfig(64, 16, 32, num_layers=2, num_heads=2, num_kv_heads=2),
)
SEQUENCE = SequenceShape(64, SMALL.media_lengths(), 16, image_slots=1)
COMPUTE = Compute(dtype=jnp.float32)


def mesh_of(**axes):
    return make_mesh(**({"data": 1, "fsdp": 4, "tensor": 2} | axes))


def weights_of(mesh, dtype="float32"):
    return abstract_weights(SMALL, abstract_params(SMALL, mesh, LogicalRules()), mesh, dtype)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def spec(leaf):
    return leaf.sharding.spec


@pytest.fixture(scope="module")
def real():
    """(weights, prompts, what prefill returns, a state of four rows) on a mesh of eight."""
    mesh = mesh_of()
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jax.device_put(
            random.normal(0, 0.1, leaf.shape).astype(np.float32), leaf.sharding
        ),
        weights_of(mesh),
    )
    ids = np.full((4, 64), 5, np.int32)
    ids[:, 1 : 1 + SMALL.num_tokens("image")] = -1
    prompt = prompt_arrays(SMALL, ids, images=np.zeros((4, 16, 16, 3), np.uint8))
    with on_mesh(mesh, 4):
        prefilled = core.prefill(SMALL, COMPUTE, params, prompt)
        state = core.empty_state(SMALL, COMPUTE, params, 4, 128)
    return params, prompt, prefilled, state


def test_prompt_and_state_are_what_the_core_makes(real):
    params, prompt, prefilled, state = real
    mesh = mesh_of()
    abstract = abstract_prompt(mesh, 4, SEQUENCE)
    assert shapes(abstract) == shapes(prompt)
    weights = weights_of(mesh)
    assert shapes(weights) == shapes(params)
    made = abstract_prefilled(SMALL, COMPUTE, mesh, weights, abstract)
    assert shapes(made) == shapes(prefilled)
    assert shapes(abstract_state(SMALL, COMPUTE, mesh, weights, 4, 128)) == shapes(state)


def test_shardings_are_what_the_core_makes(real):
    _, _, _, state = real
    mesh = mesh_of()
    abstract = abstract_state(SMALL, COMPUTE, mesh, weights_of(mesh), 4, 128)
    for made, expected in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
        if jax.dtypes.issubdtype(made.dtype, jax.dtypes.prng_key):
            continue  # its sharding has no axis for the words of a key
        assert made.sharding.is_equivalent_to(expected.sharding, made.ndim), made.shape


def test_rows_and_heads_are_sharded():
    mesh = mesh_of()
    state = abstract_state(SMALL, COMPUTE, mesh, weights_of(mesh), 4, 128)
    assert spec(state.cache["k"]) == PartitionSpec(None, ("data", "fsdp"), "tensor", None, None)
    assert spec(state.rows.lengths) == PartitionSpec(("data", "fsdp"))
    odd = abstract_state(SMALL, COMPUTE, mesh, weights_of(mesh), 3, 128)
    assert spec(odd.cache["k"]) == PartitionSpec(None, None, "tensor", None, None)


def test_int8_as_loading_makes_it():
    mesh = mesh_of()
    int8 = weights_of(mesh, "int8")
    plain = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), weights_of(mesh))
    quantized = quantize(SMALL, plain)
    made = jax.tree.map(lambda leaf: leaf.shape, int8)
    assert made == jax.tree.map(lambda leaf: tuple(leaf.shape), quantized)
    layers = int8["llm"]["layers"]["q_proj"]
    assert (layers["kernel"].dtype, layers["scale"].dtype) == (jnp.int8, jnp.float32)
    assert spec(layers["kernel"]) == PartitionSpec(None, "fsdp", "tensor", None)
    assert int8["llm"]["lm_head"]["kernel"].dtype == jnp.bfloat16


def test_a_batch_that_the_mesh_does_not_divide_is_replicated():
    prompt = abstract_prompt(mesh_of(), 3, dataclasses.replace(SEQUENCE, length=128))
    assert prompt.input_ids.shape == (3, 128)
    assert spec(prompt.input_ids) == PartitionSpec(None)


def test_a_mesh_that_does_not_divide_the_heads_is_refused():
    with pytest.raises(UserError, match="tensor=8 does not divide the 2 heads of the cache"):
        weights_of(mesh_of(fsdp=1, tensor=8))
