"""The language model's projections as int8: how near they come, and what works on them."""

import directories
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from directories import ADAPTER, BLOOM, LLAMA
from flax.traverse_util import flatten_dict

import owl_jax
from owl_jax.checkpoint.hf_import import open_family
from owl_jax.checkpoint.int8 import quantize
from owl_jax.checkpoint.lazy_arrays import device_put_lazy, read
from owl_jax.errors import UserError
from owl_jax.models.weight_names import projections
from owl_jax.parallel.mesh import make_mesh

CASES = pytest.mark.parametrize("source", [LLAMA, BLOOM], ids=["llama", "bloom"])


def _projections(config):
    return {
        row.target: row.transform.num_in_axes
        for row in projections(config.llm.weight_rows()).values()
    }


@CASES
def test_within_half_a_step_of_the_weights(source):
    config, params = golden.model(source.name)
    quantized = flatten_dict(quantize(config, open_family(source).params), sep="/")
    plain = flatten_dict(params, sep="/")
    projections = _projections(config)
    assert len(projections) == (7 if source == LLAMA else 4)
    for target, depth in projections.items():
        kernel = read(quantized[target])
        scale = read(quantized.pop(target.removesuffix("kernel") + "scale"))
        assert (kernel.dtype, scale.dtype) == (np.int8, np.float32)
        assert scale.shape == (kernel.shape[0], *kernel.shape[1 + depth :])
        spread = np.expand_dims(scale, tuple(range(1, 1 + depth)))
        error = np.abs(kernel * spread - plain[target])
        assert (error <= spread * (0.5 + 1e-5)).all()
        # All of the range is used: no scale is larger than it has to be.
        assert (np.abs(kernel).max(tuple(range(1, 1 + depth))) == 127).all()
    # Everything else is what it was.
    assert quantized.keys() == plain.keys()
    for path in plain.keys() - projections.keys():
        assert quantized[path].dtype == plain[path].dtype
        np.testing.assert_array_equal(read(quantized[path]), plain[path])


def test_channel_of_zeros_stays_zero():
    config, params = golden.model(golden.LLAMA)
    kernel = params["llm"]["layers"]["up_proj"]["kernel"].copy()
    kernel[1, :, 7] = 0
    layers = {**params["llm"]["layers"], "up_proj": {"kernel": kernel}}
    tree = quantize(config, {**params, "llm": {**params["llm"], "layers": layers}})
    up = tree["llm"]["layers"]["up_proj"]
    assert np.isfinite(read(up["scale"])).all()
    assert not read(up["kernel"])[1, :, 7].any()


def test_parts_have_the_scales_of_the_whole():
    config, _ = golden.model(golden.LLAMA)
    whole = quantize(config, open_family(LLAMA).params)["llm"]["layers"]
    for name, part in {
        "q_proj": (slice(1, 2), slice(10, 48), slice(1, 3), slice(3, 12)),
        "o_proj": (slice(0, 2), slice(1, 2), slice(0, 12), slice(8, 9)),
    }.items():
        # Opened again for each: no scale has been found before.
        apart = quantize(config, open_family(LLAMA).params)["llm"]["layers"][name]["kernel"]
        np.testing.assert_array_equal(read(apart, part=part), read(whole[name]["kernel"])[part])
    scale = quantize(config, open_family(LLAMA).params)["llm"]["layers"]["q_proj"]["scale"]
    part = (slice(1, 2), slice(2, 4), slice(0, 5))
    np.testing.assert_array_equal(scale[part], read(whole["q_proj"]["scale"])[part])


def _logits(owl, case):
    given = golden.inputs(case)
    return np.asarray(owl.logits(given["input_ids"], np.moveaxis(given["pixel_values"], 1, -1)))


def _distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@CASES
def test_logits_are_those_of_the_recorded_model(source):
    owl = owl_jax.load(source, "int8")
    expected = golden.outputs(source.name)["logits"]
    assert 0 < _distance(_logits(owl, source.name), expected) < 0.02


def test_adapter_works_on_it():
    owl = owl_jax.load(LLAMA, jnp.int8, adapter=ADAPTER)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(owl.params["lora"]))
    expected = golden.outputs(golden.LORA)
    logits = _logits(owl, golden.LORA)
    # This adapter amplifies: with plain bfloat16 weights it is as far away.
    assert _distance(logits, expected["logits_adapter"]) < 0.05
    plain = _logits(owl_jax.load(LLAMA, "int8"), golden.LORA)
    assert _distance(plain, expected["logits_adapter"]) > 1


def test_what_is_stored_where(tmp_path):
    owl = owl_jax.load(LLAMA, "int8")
    flat = flatten_dict(owl.params, sep="/")
    projections = _projections(owl.config)
    scales = {target.removesuffix("kernel") + "scale" for target in projections}
    for path, leaf in flat.items():
        expected = "int8" if path in projections else "float32" if path in scales else "bfloat16"
        assert leaf.dtype == expected, path
    for format in ("huggingface", "orbax", "peft"):
        with pytest.raises(UserError, match="int8 weights are not saved; load the model as bfl"):
            owl.save(tmp_path / "x", format)
    assert list(tmp_path.iterdir()) == []


@CASES
def test_mesh_equals_one_device(source):
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    one, spread = owl_jax.load(source, "int8"), owl_jax.load(source, "int8", mesh=mesh)
    directories.assert_same_tree(spread.params, one.params)
    cut = [
        path
        for path, leaf in flatten_dict(spread.params, sep="/").items()
        if leaf.dtype == jnp.int8 and leaf.addressable_shards[0].data.size * 8 == leaf.size
    ]
    assert len(cut) == len(_projections(one.config))
    np.testing.assert_allclose(
        _logits(spread, source.name), _logits(one, source.name), rtol=1e-4, atol=1e-4
    )


def test_reading_each_layer_once_is_enough():
    opened = open_family(LLAMA)
    tree = quantize(opened.config, opened.params)["llm"]["layers"]["q_proj"]
    kernel = device_put_lazy(tree["kernel"])
    device_put_lazy(tree["scale"])
    assert opened.files.bytes_read == 4 * kernel.size


def test_unknown_dtype_is_an_error():
    with pytest.raises(UserError, match="dtype 'int4'; expected one of bfloat16, float32, int8"):
        owl_jax.load(LLAMA, "int4")
