"""Lazy arrays: sliced reads, mapped and cast on the way, and put on devices."""

import math

import directories
import golden
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from owl_jax.checkpoint.hf_import import open_family, open_vision
from owl_jax.checkpoint.lazy_arrays import (
    Cast,
    Mapped,
    device_put_lazy,
    infinities,
    nans,
    pieces,
    read,
)
from owl_jax.models.compute import Compute
from owl_jax.models.vlm import init_params
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules, param_shardings


def _random_part(random, shape):
    starts = [int(random.integers(0, n)) for n in shape]
    return tuple(
        slice(start, int(random.integers(start, n)) + 1)
        for start, n in zip(starts, shape, strict=True)
    )


def _opened(case):
    """{path: (stored, what it holds)} of a recorded model."""
    stored = flatten_dict(open_family(golden.GOLDENS / case).params, sep="/")
    arrays = flatten_dict(golden.model(case)[1], sep="/")
    assert stored.keys() == arrays.keys()
    return {path: (leaf, arrays[path]) for path, leaf in stored.items()}


@pytest.mark.parametrize("case", [golden.LLAMA, golden.BLOOM_6, golden.VIDEO])
def test_parts_of_every_parameter_are_slices_of_it(case):
    random = np.random.default_rng(1)
    for path, (leaf, array) in _opened(case).items():
        assert (leaf.shape, leaf.dtype) == (array.shape, array.dtype), path
        for _ in range(3):
            part = _random_part(random, array.shape)
            np.testing.assert_array_equal(leaf[part], array[part], err_msg=path)
            found = read(leaf, part=part)
            np.testing.assert_array_equal(found, array[part], err_msg=path)
            assert found.ctypes.data % 64 == 0  # else a CPU device copies it


def test_parts_of_a_projection_that_the_source_keeps_in_three(tmp_path):
    leaf = open_vision(directories.write_clip(tmp_path)).params["vision"]["layers"]["qkv"]["kernel"]
    array = golden.model(golden.LLAMA)[1]["vision"]["layers"]["qkv"]["kernel"]
    random = np.random.default_rng(2)
    for _ in range(20):
        part = _random_part(random, array.shape)
        np.testing.assert_array_equal(leaf[part], array[part])


def test_pieces_cover_a_part_layer_by_layer():
    seen = np.zeros((5, 3, 4), int)
    part = (slice(1, 4), slice(0, 2), slice(2, 4))
    for piece in pieces(seen.shape, part):
        assert piece[0].stop - piece[0].start == 1
        seen[piece] += 1
    assert (seen[part] == 1).all()
    assert seen.sum() == 3 * 2 * 2
    assert list(pieces((8, 4))) == [(slice(0, 8), slice(0, 4))]


def test_changed_and_cast_piece_by_piece():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4) + 0.123
    mapped = Mapped(array, lambda piece, part: piece + 100 * part[0].start)
    expected = array + np.array([0, 100], np.float32)[:, None, None]
    np.testing.assert_array_equal(read(mapped), expected)
    cast = Cast(mapped, "bfloat16")
    assert cast.shape == array.shape
    assert read(cast).dtype == ml_dtypes.bfloat16
    part = (slice(1, 2), slice(0, 3), slice(1, 2))
    np.testing.assert_array_equal(
        read(cast, np.float32, part), expected[part].astype(ml_dtypes.bfloat16).astype(np.float32)
    )


@pytest.mark.parametrize("case", [golden.LLAMA, golden.BLOOM, golden.VIDEO])
def test_placed_on_eight_devices_equals_the_whole(case):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    config, _ = golden.model(case)
    boxed = jax.eval_shape(lambda key: init_params(config, Compute(), key), jax.random.key(0))
    shardings = flatten_dict(param_shardings(boxed, mesh, LogicalRules()), sep="/")
    cut = 0
    for path, (leaf, array) in _opened(case).items():
        placed = device_put_lazy(leaf, "bfloat16", shardings[path])
        assert placed.sharding == shardings[path]
        assert placed.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(placed, array.astype(ml_dtypes.bfloat16), err_msg=path)
        cut += math.prod(placed.addressable_shards[0].data.shape) < array.size
    assert cut > 10
    assert device_put_lazy(np.ones((3, 2))).sharding.device_set == {jax.devices()[0]}


# (parameter, its parts on a mesh of two by two by two): the source is [out, in] of 48 x 48.
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("q_proj", P(None, "fsdp", "tensor", None)),
        ("o_proj", P(None, "tensor", None, "fsdp")),
        ("down_proj", P(None, None, ("data", "tensor"))),
    ],
)
def test_what_devices_hold_is_read_once(name, parts):
    opened = open_family(directories.LLAMA)
    leaf = opened.params["llm"]["layers"][name]["kernel"]
    placed = device_put_lazy(
        leaf, "float32", NamedSharding(make_mesh(data=2, fsdp=2, tensor=2), parts)
    )
    assert opened.files.bytes_read == placed.nbytes
    shard = placed.addressable_shards[-1]
    whole = golden.model(golden.LLAMA)[1]["llm"]["layers"][name]["kernel"]
    np.testing.assert_array_equal(shard.data, whole[shard.index])


@pytest.mark.parametrize(
    ("name", "axis", "fraction"),
    [
        ("q_proj", 0, 2),  # a layer
        ("q_proj", 1, 2),  # inputs
        ("q_proj", 2, 2),  # heads, the first of the outputs' axes
        ("q_proj", 3, 1),  # within heads: not contiguous in the source
        ("o_proj", 1, 2),
        ("o_proj", 2, 1),
        ("o_proj", 3, 2),
        ("gate_proj", 2, 2),
    ],
)
def test_half_of_a_kernel_reads_half_of_its_source(name, axis, fraction):
    opened = open_family(directories.LLAMA)
    leaf = opened.params["llm"]["layers"][name]["kernel"]
    array = golden.model(golden.LLAMA)[1]["llm"]["layers"][name]["kernel"]
    half = [slice(0, size) for size in array.shape]
    half[axis] = slice(array.shape[axis] // 2, array.shape[axis])
    np.testing.assert_array_equal(read(leaf, part=tuple(half)), array[tuple(half)])
    assert opened.files.bytes_read == array.nbytes // fraction


def test_opening_reads_nothing():
    assert open_family(directories.LLAMA).files.bytes_read == 0


def test_elements_that_are_not_finite_are_counted():
    array = np.array([[1, np.inf], [-np.inf, np.nan]], np.float16)
    assert infinities(array) == 3
    assert infinities(np.zeros((0,), np.float16)) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_elements_that_are_no_numbers_are_counted(dtype):
    array = np.array([[1, np.inf, 0], [-np.inf, np.nan, -np.nan]], jnp.dtype(dtype))
    assert nans(array) == 2
    assert nans(array.T[1:, ::-1]) == 2
    assert nans(array[0]) == nans(array[:, :1]) == nans(array[:0]) == 0
    largest = jnp.finfo(dtype).max
    assert nans(np.array([largest, -largest, jnp.finfo(dtype).tiny], array.dtype)) == 0
