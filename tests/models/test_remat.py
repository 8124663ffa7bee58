"""Remat policies: parsing, saved tensors, and that every layer names its tensors."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.errors import UserError
from owl_jax.models.attention.mask import self_attention_mask
from owl_jax.models.compute import Compute
from owl_jax.models.connectors.abstractor import AbstractorBlock, AbstractorConfig
from owl_jax.models.language.bloom import BloomBlock, BloomConfig
from owl_jax.models.language.decoder import DecoderBlock
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.language.rope import rotary_tables
from owl_jax.models.lora import LoraConfig
from owl_jax.models.remat import NAMES, TENSORS, named, policy
from owl_jax.models.vision.clip import ClipBlock, ClipConfig

B, L, D = 2, 6, 16
X = jnp.asarray(np.random.default_rng(0).normal(size=(B, L, D)), jnp.float32)
POSITIONS = jnp.tile(jnp.arange(L), (B, 1))
PLACEMENT = self_attention_mask(POSITIONS, jnp.ones((B, L), jnp.int32))
LLAMA, BLOOM = LlamaConfig(32, D, 24, 1, 2, 2), BloomConfig(32, D, 1, 2)
ROTATION = rotary_tables(POSITIONS, LLAMA.head_dim, 1e4)
COMPUTE, LORA = Compute(), partial(LoraConfig, 2, 4.0, 0.0)
VISION = ClipConfig(8, 4, D, 24, 1, 2, temporal=True)
# The block, what it gets besides x, and the tensors that it does not have.
BLOCKS = {
    "llama": (
        DecoderBlock(LLAMA, COMPUTE, LORA(("q_proj",))),
        (None, ROTATION, PLACEMENT, None),
        {"temporal"},
    ),
    "bloom": (
        BloomBlock(BLOOM, COMPUTE, LORA(("dense",))),
        (None, PLACEMENT),
        {"gate", "temporal"},
    ),
    "vision": (ClipBlock(VISION, COMPUTE, B), (None,), {"gate", "lora"}),
    "connector": (
        AbstractorBlock(AbstractorConfig(L, D, 24, 1, 2), D, COMPUTE),
        (None, X),
        {"temporal", "lora"},
    ),
}


@cache
def block_and_weights(name):
    block, given, absent = BLOCKS[name]
    weights = block.init(jax.random.key(0), X, *given, deterministic=True)
    random = np.random.default_rng(1)
    weights = jax.tree.map(lambda w: jnp.asarray(random.normal(0, 0.3, w.shape), w.dtype), weights)

    def loss(weights, x):
        y, _ = block.apply(weights, x, *given, deterministic=True)
        return jnp.sum(jnp.sin(y))

    return loss, weights, absent


@cache
def gradients(name):
    """Those of a block that keeps everything."""
    loss, weights, _ = block_and_weights(name)
    return jax.jit(jax.grad(loss, (0, 1)))(weights, X)


def kept(loss, text, weights, capsys):
    """The names of the tensors saved for the backward pass, and the number of others."""
    jax.ad_checkpoint.print_saved_residuals(jax.checkpoint(loss, policy=policy(text)), weights, X)
    lines = capsys.readouterr().out.splitlines()
    names = [re.search("named '(.*?)'", line) for line in lines]
    inputs = [line for line in lines if "argument" in line or "constant" in line]
    return {m[1] for m in names if m}, len(lines) - len(inputs) - len([m for m in names if m])


@pytest.mark.parametrize("name", BLOCKS)
def test_every_layer_names_its_tensors(name, capsys):
    loss, weights, absent = block_and_weights(name)
    names, others = kept(loss, f"save:{','.join(TENSORS)}", weights, capsys)
    assert names == set(TENSORS) - absent
    assert others == 0


@pytest.mark.parametrize("tensors", [("context",), ("query", "up")])
def test_only_named_tensors_are_saved(tensors, capsys):
    loss, weights, _ = block_and_weights("llama")
    assert kept(loss, f"save:{','.join(tensors)}", weights, capsys) == (set(tensors), 0)
    assert kept(loss, "full", weights, capsys) == (set(), 0)


@pytest.mark.parametrize("name", BLOCKS)
def test_minimal_recomputes_no_matmul_with_weights(name):
    loss, weights, _ = block_and_weights(name)

    def matmuls(text):
        gradient = jax.value_and_grad(jax.checkpoint(loss, policy=policy(text)), (0, 1))
        return jax.jit(gradient).lower(weights, X).as_text().count("dot_general")

    everything = matmuls("none")
    assert matmuls("minimal") == everything + 2  # attention's two, which have no weights
    assert matmuls("dots") == everything
    assert matmuls("full") > everything + 6


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(
    "text",
    [
        "save:query,value,context",
        "save:context;offload:gate,up",
        "offload:input",
        "save: mlp, lora",
    ],
)
def test_no_policy_changes_a_gradient(name, text):
    loss, weights, _ = block_and_weights(name)
    ours = jax.jit(jax.grad(jax.checkpoint(loss, policy=policy(text)), (0, 1)))(weights, X)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), ours, gradients(name))


def test_offloaded_tensors_are_on_the_host():
    loss, weights, _ = block_and_weights("llama")

    def program(text):
        return str(jax.make_jaxpr(jax.grad(jax.checkpoint(loss, policy=policy(text))))(weights, X))

    assert "Host" not in program("save:gate")
    assert program("offload:gate").count("MemorySpace.Host") == 1
    assert program("save:context;offload:gate,up").count("MemorySpace.Host") == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "some",
            "'some' is not a remat policy: expected one of none, dots, minimal, full, or tensors",
        ),
        ("", "'' is not a remat policy: expected one of"),
        ("keep:query", "'keep:query' must begin with save: or offload:"),
        ("save:query;value", "'value' must begin with"),
        ("save:q_proj", f"unknown tensor 'q_proj'; choose from {', '.join(TENSORS)}"),
        ("save:query,", "unknown tensor ''"),
        ("save:query;offload:query", "names 'query' twice"),
    ],
)
def test_a_wrong_policy_is_explained(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        policy(text)


def test_names_are_policies():
    assert all(callable(policy(name)) for name in NAMES)


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="'qery' is not in TENSORS"):
        named("qery", X)
