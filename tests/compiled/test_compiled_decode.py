"""A decoded token of a small model, compiled for a TPU that is not there: what it reads."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from owl_jax.aot.analyse import analyse
from owl_jax.aot.build_program import build_program
from owl_jax.data.batch import SequenceShape
from owl_jax.inference import core
from owl_jax.inference.abstract import abstract_prompt, abstract_state, abstract_weights
from owl_jax.models.attention.mask import PastTokens
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.parallel.sharding import LogicalRules, on_mesh
from owl_jax.training.config import base_config, read_model
from owl_jax.training.train_program import abstract_params

# On each chip 9 MB of weights in a layer, some of which stay on it from token to token, and twice
# 134 MB of cache, of which none can.
LLAMA = LlamaConfig(4096, 1024, 4096, num_layers=4, num_heads=8, num_kv_heads=8)
BLOOM = BloomConfig(4096, 1024, num_layers=4, num_heads=8)
NARROW = LlamaConfig(4096, 1024, 4096, num_layers=4, num_heads=16, num_kv_heads=16)


def with_media(llm):
    return base_config(
        OwlConfig(
            vision=ClipConfig(32, 16, 256, 512, num_layers=1, num_heads=2),
            connector=AbstractorConfig(15, 256, 512, num_layers=1, num_heads=2),
            llm=llm,
        )
    )


@pytest.mark.parametrize(
    ("llm", "dtype", "cache_dtype", "most"),
    [
        (LLAMA, "bfloat16", "auto", 1.1),
        (LLAMA, "int8", "auto", 1.1),
        (LLAMA, "int8", "int8", 1.1),
        (BLOOM, "int8", "auto", 1.1),
        # Heads of 64: a new token's slot is written with the 127 around it.
        (NARROW, "bfloat16", "auto", 1.2),
    ],
)
def test_a_token_reads_weights_and_cache_once(open_topology, llm, dtype, cache_dtype, most):
    """The cache is written in place: there is no second one beside it."""
    config = with_media(llm)
    config.batch_size, config.data.sequence_length = 128, 2048
    config.mesh.update(fsdp=1, tensor=4)
    topology = open_topology("v5e:2x2")
    program = build_program(config, topology, "decode", dtype=dtype, cache_dtype=cache_dtype)
    report = analyse(program, topology)
    assert 0.95 < report.bytes_read / report.program.needed <= most
    assert report.memory.temporaries < 0.01 * report.program.argument_bytes["cache"]


def test_an_int8_cache_is_inserted_into_and_prefilled_from_in_place(open_topology):
    """Neither a prompt's insertion nor its next piece copies the cache, or widens it."""
    config = with_media(LLAMA)
    config.batch_size, config.data.sequence_length = 16, 2048
    config.mesh.update(fsdp=1, tensor=1)
    topology = open_topology("v5e:1x1")
    program = build_program(config, topology, "insert", new_tokens=1536, cache_dtype="int8")
    report = analyse(program, topology)
    cache = program.argument_bytes["cache"]
    assert cache == 4 * 16 * 8 * 2048 * 2 * (128 + 4)
    assert report.memory.temporaries < 0.001 * cache

    model, mesh = read_model(config), program.mesh
    compute = Compute(jnp.bfloat16, cache_dtype="int8")
    shapes = abstract_params(model, mesh, LogicalRules())
    weights = abstract_weights(model, shapes, mesh, "bfloat16")
    state = abstract_state(model, compute, mesh, weights, 16, 2048)
    piece = abstract_prompt(mesh, 1, SequenceShape(512, model.media_lengths(), 32))
    number = jax.ShapeDtypeStruct((1,), jnp.int32, sharding=state.rows.lengths.sharding)
    with on_mesh(mesh, 1):
        read = partial(core.prefill, model, compute)
        past = PastTokens(number, number)
        compiled = jax.jit(read).lower(weights, piece, state.cache, past).compile()
    # Scores of 512 tokens: 8 heads, 2,048 slots, float32; twice.
    assert compiled.memory_analysis().temp_size_in_bytes < 2.5 * 512 * 8 * 2048 * 4


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_weights_lie_as_decoding_reads_them(open_topology, dtype):
    """Four heads and a width of 1,376 a chip, as of LLaMA-7B on eight: no kernel is copied."""
    llm = LlamaConfig(4096, 2048, 5504, num_layers=8, num_heads=16, num_kv_heads=16)
    config = with_media(llm)
    config.batch_size, config.data.sequence_length = 64, 512
    config.mesh.update(fsdp=1, tensor=4)
    topology = open_topology("v5e:2x2")
    report = analyse(build_program(config, topology, "decode", dtype=dtype), topology)
    of_a_projection = 8 * 2048 * 4 * 128 * (2 if dtype == "bfloat16" else 1)
    assert report.memory.temporaries < of_a_projection / 2
