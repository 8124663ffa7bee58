"""Writing tokens to a cache whose slots lie along columns: the interpreted kernel, its choice."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.models.cache import write_tokens
from owl_jax.models.int8_cache import quantize, scale_of
from owl_jax.models.write_columns import suits, write_columns
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules


def given(G=2, K=64, S=320, dtype=jnp.float32, slots=(0, 127, 128, 319)):
    random = np.random.default_rng(0)
    B = len(slots)
    cache = {name: jnp.asarray(random.normal(size=(3, B, G, S, K)), dtype) for name in "kv"}
    new = {name: jnp.asarray(random.normal(size=(3, B, G, 1, K)), dtype) for name in "kv"}
    return cache, new, jnp.asarray(slots, jnp.int32)


def assert_written(ours, cache, new, slots):
    rows = jnp.arange(len(slots))
    expected = write_tokens(cache, new, rows, slots)
    for name in cache:
        assert ours[name].dtype == cache[name].dtype
        np.testing.assert_array_equal(ours[name], expected[name])
        np.testing.assert_array_equal(
            ours[name][:, rows, :, slots], new[name].swapaxes(0, 1)[..., 0, :]
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("G", "K", "S"), [(2, 64, 320), (1, 80, 512), (3, 16, 330)])
def test_changes_one_slot_of_each_row(G, K, S, dtype):
    """The last tiles may be partial."""
    arguments = given(G, K, S, dtype)
    assert suits(arguments[0]["k"])
    assert_written(jax.jit(write_columns)(*arguments), *arguments)


def given_int8(K):
    cache, new, slots = given(K=K)
    for leaves in (cache, new):
        for name in "kv":
            leaves[name], leaves[scale_of(name)] = quantize(leaves[name])
    return cache, new, slots


def test_changes_one_slot_of_an_int8_cache():
    """Leaves may differ in width: scales have one of 1."""
    arguments = given_int8(64)
    assert all(map(suits, arguments[0].values()))
    assert_written(jax.jit(write_columns)(*arguments), *arguments)


def test_values_that_are_not_finite_stay_alone():
    cache, new, slots = given()
    new["k"] = new["k"].at[1, 2, 0, 0, 5].set(jnp.inf)
    cache["v"] = cache["v"].at[0, 1, 1, 9].set(jnp.nan)
    ours = jax.jit(write_columns)(cache, new, slots)
    rows = np.arange(len(slots))
    for name in "kv":
        expected = np.array(cache[name])
        expected[:, rows, :, slots] = new[name].swapaxes(0, 1)[..., 0, :]
        np.testing.assert_array_equal(ours[name], expected)


@pytest.mark.parametrize("G", [2, 1])
def test_a_mesh_writes_what_one_device_does(G):
    """One head cannot be sharded over two devices."""
    arguments = given(G)
    with jax.set_mesh(make_mesh(2, 2, 2)), nn.logical_axis_rules(LogicalRules().flax_rules()):
        ours = jax.jit(write_columns)(*arguments)
    assert_written(ours, *arguments)


@pytest.mark.parametrize(
    ("platform", "K", "is_kernel"),
    [("tpu", 64, True), ("tpu", 128, False), ("tpu", 100, False), ("cpu", 64, False)],
)
def test_a_tpu_has_a_kernel_where_its_scatter_copies(platform, K, is_kernel):
    device = jax.sharding.AbstractDevice(device_kind="", num_cores=1, platform=platform)
    mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device)
    cache, new, slots = given(K=K)

    def traced(rows, cache, new):
        with jax.sharding.use_abstract_mesh(mesh):
            return str(jax.make_jaxpr(lambda *x: write_tokens(*x, rows, slots))(cache, new))

    assert ("write_columns" in traced(None, cache, new)) == is_kernel
    assert "write_columns" not in traced(jnp.arange(4), cache, new)
    layers = [{name: x[i] for name, x in cache.items()} for i in range(3)]
    unrolled = [{name: x[i] for name, x in new.items()} for i in range(3)]
    assert "write_columns" not in traced(None, tuple(layers), tuple(unrolled))


def test_only_the_scales_of_wide_int8_heads_need_the_kernel():
    device = jax.sharding.AbstractDevice(device_kind="", num_cores=1, platform="tpu")
    mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device)
    cache, new, slots = given_int8(128)

    def traced(cache, new):
        with jax.sharding.use_abstract_mesh(mesh):
            return str(jax.make_jaxpr(lambda *x: write_tokens(*x, None, slots))(cache, new))

    text = traced(cache, new)
    assert (text.count(" pallas_call["), text.count(" scatter[")) == (1, 2)


def test_wide_heads_and_many_do_not_suit():
    def keys(G, K, *layers):
        return jax.ShapeDtypeStruct((*layers, 4, G, 256, K), jnp.bfloat16)

    assert suits(keys(32, 112, 3))
    assert not suits(keys(128, 112, 3))
    assert not suits(keys(4, 128, 3))
    assert not suits(keys(4, 64))
    narrow = jax.ShapeDtypeStruct((3, 4, 4, 256, 48), jnp.int8)
    assert not suits(narrow)  # a tile of int8 has 32 rows
