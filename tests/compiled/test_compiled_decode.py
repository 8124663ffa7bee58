"""A decoded token of a small model, compiled for a TPU that is not there: what it reads."""

import pytest

from owl_jax.aot.analyse import analyse
from owl_jax.aot.build_program import build_program
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.training.config import base_config

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
    ("llm", "dtype", "most"),
    [
        (LLAMA, "bfloat16", 1.1),
        (LLAMA, "int8", 1.1),
        (BLOOM, "int8", 1.1),
        # Heads of 64: a new token's slot is written with the 127 around it.
        (NARROW, "bfloat16", 1.2),
    ],
)
def test_a_token_reads_weights_and_cache_once(open_topology, llm, dtype, most):
    """The cache is written in place: there is no second one beside it."""
    config = with_media(llm)
    config.batch_size, config.data.sequence_length = 128, 2048
    config.mesh.update(fsdp=1, tensor=4)
    topology = open_topology("v5e:2x2")
    report = analyse(build_program(config, topology, "decode", dtype=dtype), topology)
    assert 0.95 < report.bytes_read / report.program.needed <= most
    assert report.memory.temporaries < 0.01 * report.program.argument_bytes["cache"]


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
