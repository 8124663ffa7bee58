
import dataclasses

import flax.linen as nn
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from owl_jax.checkpoint import table
from owl_jax.checkpoint.adapter import WEIGHTS_FILE, write_adapter
from owl_jax.checkpoint.huggingface import abstract_params
from owl_jax.checkpoint.tensors import to_source
from owl_jax.models.config import Compute, LoraConfig
from owl_jax.models.owl import PIXEL_MEAN, PIXEL_STDDEV, Owl, forward, init_params, variables
from owl_jax.models.stack import REMAT_POLICIES, unstack

CASES = (golden.LLAMA, golden.BLOOM, golden.BLOOM_6, golden.VIDEO, golden.LORA)
# Recorded, but of generation, or of the original's inputs.
OTHER = ("greedy", "masked_labels", "video_attention_mask")
FORWARD_ARRAYS = [
    (case, name)
    for case in CASES
    for name in golden.outputs(case)
    if not name.startswith(OTHER)
]


@pytest.mark.parametrize(("case", "name"), FORWARD_ARRAYS)
def test_recorded_array_is_reproduced(case, name):
    recorded = golden.outputs(case)[name]
    ours = golden.reproduced(case)[name].reshape(recorded.shape)
    np.testing.assert_allclose(ours, recorded, rtol=0, atol=2e-5 if "loss" in name else 1e-4)


@pytest.mark.parametrize("case", [golden.LLAMA, golden.BLOOM, golden.BLOOM_6])
def test_recorded_gradients_are_reproduced(case):
    rows = table.rows(golden.model(case)[0])
    _assert_gradients(
        to_source(rows, golden.gradients(case, Compute())),
        load_file(golden.GOLDENS / case / "grads.safetensors"),
    )


def test_recorded_adapter_gradients_are_reproduced(tmp_path):
    config, _ = golden.model(golden.LORA)
    write_adapter(config, golden.gradients(golden.LORA, Compute())["lora"], tmp_path)
    recorded = load_file(golden.GOLDENS / golden.LORA / "grads.safetensors")
    _assert_gradients(
        load_file(tmp_path / WEIGHTS_FILE),
        {name.replace(".default", ""): value for name, value in recorded.items()},
    )


def _assert_gradients(ours, recorded):
    assert ours.keys() == recorded.keys()
    for name, value in recorded.items():
        error = np.linalg.norm(ours[name] - value)
        assert error <= 1e-3 * np.linalg.norm(value) + 1e-5, name


@pytest.mark.parametrize(
    ("case", "prefix"), [(golden.LORA, ""), (golden.BLOOM, ""), (golden.VIDEO, "mixed_")]
)
def test_unrolled_layers_equal_scanned(case, prefix):
    config, params = golden.model(case)
    args = golden.run_rows(case, prefix)
    logits = golden.jitted_forward(config, Compute(scan_layers=False), unstack(params), **args)
    np.testing.assert_allclose(logits, golden.reproduced(case)[f"{prefix}logits"], atol=2e-5)


@pytest.mark.parametrize("policy", REMAT_POLICIES)
def test_remat_policy_changes_no_gradient(policy):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
        golden.gradients(golden.LORA, Compute(remat=policy)),
        golden.gradients(golden.LORA, Compute()),
    )


@pytest.mark.parametrize(
    ("case", "prefix"), [(golden.LLAMA, ""), (golden.BLOOM, ""), (golden.VIDEO, "mixed_")]
)
def test_bfloat16_stays_near_float32(case, prefix):
    config, params = golden.model(case)
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    args = golden.run_rows(case, prefix)
    logits = golden.jitted_forward(config, Compute(dtype=jnp.bfloat16), narrow, **args)
    wide = golden.reproduced(case)[f"{prefix}logits"]
    assert logits.dtype == jnp.float32
    assert 0 < np.linalg.norm(logits - wide) < 0.02 * np.linalg.norm(wide)


@pytest.mark.parametrize("case", [golden.LLAMA, golden.BLOOM])
def test_norms_softmax_and_loss_are_float32_in_bfloat16_compute(case):
    config, params = golden.model(case)
    narrow = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params)

    def loss(params):
        compute = Compute(dtype=jnp.bfloat16)
        logits = forward(config, compute, params, **golden.run_rows(case))
        return golden.mean_loss(logits, *golden.targets_and_mask(case))

    operands = list(_operands(jax.make_jaxpr(loss)(narrow).jaxpr))
    # Softmax and loss are the only users of exp and log, norms of rsqrt.
    assert {name for name, _ in operands} >= {"exp", "log", "rsqrt", "dot_general"}
    wide = {dtype for name, dtype in operands if name in ("exp", "log", "rsqrt")}
    assert wide == {jnp.dtype("float32")}
    # The matrix products themselves are in bfloat16.
    assert jnp.dtype("bfloat16") in {dtype for name, dtype in operands if name == "dot_general"}


def _operands(jaxpr):
    """(primitive, dtype of its first operand) of every equation, in inner programs too."""
    for equation in jaxpr.eqns:
        if equation.invars:
            yield equation.primitive.name, equation.invars[0].aval.dtype
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from _operands(inner)
