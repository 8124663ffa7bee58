import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from owl_jax.checkpoint.int8 import quantize
from owl_jax.data.batch import RowShape
from owl_jax.errors import UserError
from owl_jax.inference.generate import prefill
from owl_jax.inference.inference_program import make_inference_program
from owl_jax.inference.prompt import prompt_arrays
from owl_jax.inference.sampling import Sampling
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules
from owl_jax.training.train_program import abstract_params

SMALL = OwlConfig(
    vision=ClipConfig(16, 8, 16, 32, num_layers=1, num_heads=2),
    connector=AbstractorConfig(2, 16, 32, num_layers=1, num_heads=2),
    llm=LlamaConfig(64, 16, 32, num_layers=2, num_heads=2, num_kv_heads=2),
)
SEQUENCE = RowShape(128, SMALL.media_lengths(), 16, image_slots=1)


def make(mesh=None, dtype="float32", sequence=SEQUENCE, batch_size=4, new_tokens=10):
    mesh = mesh or make_mesh(data=1, fsdp=4, tensor=2)
    params = abstract_params(SMALL, mesh, LogicalRules())
    return make_inference_program(SMALL, params, mesh, dtype, sequence, batch_size, new_tokens)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_prompt_and_state_are_what_the_engine_makes():
    program = make()
    ids = np.full((4, 64), 5, np.int32)
    ids[:, 1 : 1 + SMALL.num_tokens("image")] = -1
    pictures = np.zeros((4, 16, 16, 3), np.uint8)
    prompt = prompt_arrays(SMALL, ids, images=pictures)
    assert shapes(program.prompt()) == shapes(prompt)

    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32), program.params
    )
    sampling, key = Sampling.of(0.0, None, None), jax.random.key(0)
    state = prefill(
        SMALL, program.compute, params, prompt, sampling, key, 2, capacity=program.capacity
    )
    assert shapes(program.state()) == shapes(state)


def test_sequences_and_heads_are_sharded():
    state = make().state()
    assert state.cache["k"].sharding.spec == PartitionSpec(None, ("data", "fsdp"), "tensor")
    assert state.tokens.sharding.spec == PartitionSpec(("data", "fsdp"))
    assert make(batch_size=3).state().cache["k"].sharding.spec == PartitionSpec(
        None, None, "tensor"
    )


def test_int8_as_loading_makes_it():
    program = make(dtype="int8")
    plain = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), make().params)
    quantized = quantize(SMALL, plain)
    made = jax.tree.map(lambda leaf: leaf.shape, program.params)
    assert made == jax.tree.map(lambda leaf: tuple(leaf.shape), quantized)
    layers = program.params["llm"]["layers"]["q_proj"]
    assert (layers["kernel"].dtype, layers["scale"].dtype) == (jnp.int8, jnp.float32)
    assert layers["kernel"].sharding.spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert program.params["llm"]["lm_head"]["kernel"].dtype == jnp.bfloat16


def test_both_programs_are_traced():
    program = make(batch_size=8)
    assert program.trace_prefill().out_info.tokens.shape == (8, 64)
    assert program.trace_decode().out_info.cache["k"].shape == (2, 8, 2, 128, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sequence": dataclasses.replace(SEQUENCE, length=64)},
            "64 new tokens leave no room for a prompt",
        ),
        ({"mesh": "tensor"}, "tensor=8 does not divide the 2 heads of the cache"),
    ],
)
def test_what_has_no_room_is_refused(change, message):
    if "mesh" in change:
        change = {"mesh": make_mesh(data=1, fsdp=1, tensor=8)}
    with pytest.raises(UserError, match=message):
        make(**change)
