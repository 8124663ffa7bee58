import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from owl_jax.errors import UserError
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import (
    LogicalRules,
    batch_sharding,
    param_shardings,
    process_batch_shard,
    shard_batch,
)

RULES = LogicalRules()


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.initializers.normal()
        up = self.param("up", nn.with_logical_partitioning(init, ("embed", "mlp")), (16, 32))
        down = self.param("down", nn.with_logical_partitioning(init, ("mlp", "embed")), (32, 16))
        scale = self.param("scale", nn.with_logical_partitioning(init, ("embed",)), (16,))
        x = x * scale
        y = nn.with_logical_constraint(x @ up, ("batch", "length", "act_mlp"))
        return x + nn.with_logical_constraint(y @ down, ("batch", "length", "act_embed")), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return layers(name="layers")(x)[0]


def test_the_default_table():
    assert RULES.spec(("layers", "embed", "heads", "kv")) == P(None, "fsdp", "tensor", None)
    assert RULES.spec(("vocab", "embed")) == P("tensor", "fsdp")
    assert RULES.spec(("batch", "slots", None)) == P(("data", "fsdp"), None, None)


def test_two_names_on_one_mesh_axis_are_an_error():
    with pytest.raises(UserError, match=r"\[heads, mlp\].*'heads' and 'mlp' both.*'tensor'"):
        RULES.spec(("heads", "mlp"))
    batch_on_fsdp = dataclasses.replace(RULES, act_embed="fsdp")
    with pytest.raises(UserError, match="'batch' and 'act_embed' both"):
        batch_on_fsdp.spec(("batch", "length", "act_embed"))


def test_an_unknown_name_is_an_error():
    with pytest.raises(UserError, match="unknown logical name 'emebd'"):
        RULES.spec(("emebd", "mlp"))


def test_parameters_are_sharded_by_their_names():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    boxed = jax.eval_shape(Stack().init, jax.random.key(0), jnp.ones((4, 5, 16)))["params"]
    expected = {
        "layers": {
            "up": NamedSharding(mesh, P(None, "fsdp", "tensor")),
            "down": NamedSharding(mesh, P(None, "tensor", "fsdp")),
            "scale": NamedSharding(mesh, P(None, "fsdp")),
        }
    }
    assert param_shardings(boxed, mesh, RULES) == expected
    names = nn.get_partition_spec(boxed)
    assert param_shardings(nn.meta.unbox(boxed), mesh, RULES, names) == expected


def test_a_dimension_that_cannot_be_divided_stays_whole():
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    shapes = {"a": jax.ShapeDtypeStruct((6, 8), jnp.float32), "b": jax.ShapeDtypeStruct((), "f4")}
    shardings = param_shardings(shapes, mesh, RULES, {"a": P("embed", "heads"), "b": P()})
    assert shardings == {
        "a": NamedSharding(mesh, P(None, "tensor")),
        "b": NamedSharding(mesh, P()),
    }


def test_the_parameter_at_fault_is_named():
    shapes = {"llm": {"w": jax.ShapeDtypeStruct((8, 8), jnp.float32)}}
    with pytest.raises(UserError, match=r"parameter llm/w \[embed, vision_embed\]"):
        param_shardings(shapes, make_mesh(), RULES, {"llm": {"w": P("embed", "vision_embed")}})


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_a_sharded_model_computes_what_one_device_computes(sizes):
    x = np.random.default_rng(0).normal(size=(8, 5, 16)).astype(np.float32)
    params = nn.meta.unbox(Stack().init(jax.random.key(0), jnp.asarray(x)))
    alone = Stack().apply(params, x)

    mesh = make_mesh(*sizes)
    boxed = jax.eval_shape(Stack().init, jax.random.key(0), x)
    placed = jax.device_put(params, param_shardings(boxed, mesh, RULES))
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES.flax_rules()):
        y = jax.jit(Stack().apply)(placed, shard_batch({"x": x}, mesh)["x"])
    assert y.sharding.is_equivalent_to(batch_sharding(mesh), y.ndim)
    np.testing.assert_allclose(y, alone, atol=1e-5)


def test_each_device_holds_its_rows_of_a_batch():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    ids = np.arange(24).reshape(8, 3)
    batch = shard_batch({"ids": ids, "images": np.zeros((8, 2, 4, 4, 3), np.uint8)}, mesh)
    assert batch["images"].sharding == batch_sharding(mesh)
    rows = {
        shard.index[0].start: np.asarray(shard.data) for shard in batch["ids"].addressable_shards
    }
    assert sorted(rows) == [0, 2, 4, 6]
    np.testing.assert_array_equal(rows[4], ids[4:6])


def test_rows_that_cannot_be_divided_are_refused():
    with pytest.raises(UserError, match=r"batch of 6 sequences.*among 8 devices.*multiple of 8"):
        shard_batch({"ids": np.zeros((6, 3))}, make_mesh())


def test_one_process_reads_all_rows():
    for sizes in ((8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)):
        assert process_batch_shard(make_mesh(*sizes)) == (0, 1)
