"""Programs before they are compiled, on the CPU's devices in the place of a slice's."""

import jax
import pytest

from owl_jax.aot.build_program import build_program
from owl_jax.aot.topology import Topology
from owl_jax.errors import UserError
from owl_jax.inference.core import MAX_STEPS
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.parallel.chips import CHIPS
from owl_jax.training.config import base_config

SMALL = OwlConfig(
    vision=ClipConfig(32, 16, 32, 64, num_layers=1, num_heads=2),
    connector=AbstractorConfig(15, 32, 64, num_layers=1, num_heads=2),
    llm=LlamaConfig(64, 64, 64, num_layers=1, num_heads=8, num_kv_heads=8),
)


def opened(name, new_tokens=64, mesh=(), **values):
    """The program of eight rows on eight devices; `values` and `mesh` replace config's."""
    config = base_config(SMALL)
    config.rules = ((".*", "all"),)
    config.recipes.all = {"learning_rate": 1e-4}
    config.update({"batch_size": 8, "data": {"sequence_length": 256}})
    config.update(values)
    config.mesh.update(dict(mesh))
    topology = Topology("v5e:2x4", CHIPS["v5e"], (2, 4), 1, tuple(jax.devices()))
    return build_program(config, topology, name, new_tokens=new_tokens)


@pytest.mark.parametrize("name", ["train", "prefill", "insert", "decode"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "config.batch_size=0: expected at least 1"),
        ({"batch_size": -4}, "config.batch_size=-4: expected at least 1"),
        (
            {"gradient_accumulation_steps": -7},
            "config.gradient_accumulation_steps=-7: expected at least 1",
        ),
        ({"frozen_dtype": "banana"}, "config.frozen_dtype='banana': expected one of"),
    ],
)
def test_every_program_checks_the_config(name, values, message):
    with pytest.raises(UserError, match=message):
        opened(name, **values)


@pytest.mark.parametrize(
    ("name", "mesh", "rows", "own"),
    [
        ("train", {}, 16, 2),
        ("train", {"fsdp": 2, "tensor": 4}, 16, 8),
        ("decode", {"fsdp": 1, "tensor": 8}, 32, 32),
        ("decode", {}, 33, 33),  # cannot be divided
    ],
)
def test_the_rows_that_a_device_has(name, mesh, rows, own):
    program = opened(name, mesh=mesh, batch_size=rows)
    assert (program.batch_size, program.batch_per_device) == (rows, own)


@pytest.mark.parametrize("new_tokens", [200, 99999])
def test_tokens_without_room_are_named_as_they_were_given(new_tokens):
    with pytest.raises(UserError, match=f"^--new_tokens={new_tokens}: .* sequence of 256 tokens;"):
        opened("decode", new_tokens=new_tokens)


@pytest.mark.parametrize("name", ["prefill", "insert", "decode"])
def test_programs_of_answers_are_traced(name):
    """Prompts of 192 tokens in rows of 256; each program returns what the core does."""
    result = opened(name).trace().out_info
    if name == "prefill":
        assert result.logits.shape == (8, 64) and result.new["k"].shape == (1, 8, 8, 192, 8)
        return
    state = result if name == "insert" else result[0]
    assert state.cache["k"].shape == (1, 8, 8, 256, 8)
    assert state.rows.lengths.shape == (8,)
    if name == "decode":
        assert result[1].ids.shape == (MAX_STEPS, 8)
