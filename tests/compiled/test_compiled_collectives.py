"""Collectives of programs that the TPU's compiler made, and the links that they go over."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from owl_jax.aot import collectives
from owl_jax.aot.collectives import Collective, Route
from owl_jax.aot.hlo import parse
from owl_jax.aot.runs import count_runs
from owl_jax.parallel.mesh import make_mesh


def gradient_of_a_scan(topology, sizes):
    """Collectives of the gradient of seven layers whose weights and rows are spread over a mesh."""
    mesh = make_mesh(**sizes, devices=topology.devices)

    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        turn = lambda x, w: (jnp.tanh(x @ w), None)  # noqa: E731
        return jnp.square(jax.lax.scan(turn, x, w)[0].astype(jnp.float32)).sum()

    weights = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    w = jax.ShapeDtypeStruct((7, 512, 512), jnp.bfloat16, sharding=weights)
    x = jax.ShapeDtypeStruct((64, 512), jnp.bfloat16, sharding=rows)
    lowered = jax.jit(jax.grad(loss), out_shardings=weights).lower(w, x)
    runs = count_runs(parse(lowered.compile().as_text()))
    totals = {}
    for item in collectives.find(runs, mesh.size):
        route = collectives.route(item, mesh.devices.reshape(-1), topology)
        count, nbytes = totals.get((item.kind, route.network), (0, 0))
        totals[item.kind, route.network] = count + item.runs, nbytes + item.runs * item.nbytes
    return totals


def test_weights_are_gathered_for_each_layer_and_gradients_scattered(open_topology):
    """Forward and backward, seven times each; 512 x 512 of bfloat16."""
    totals = gradient_of_a_scan(open_topology("v5e:2x2"), {"data": 1, "fsdp": 4})
    whole = 512 * 512 * 2
    assert totals == {
        ("all-gather", "ICI"): (14, 14 * whole),
        ("reduce-scatter", "ICI"): (7, 7 * whole),
    }


def test_between_slices_go_the_gradients_alone(open_topology):
    totals = gradient_of_a_scan(open_topology("v5e:2x2", slices=2), {"data": 2, "fsdp": 4})
    whole = 512 * 512 * 2
    assert totals == {
        ("all-gather", "ICI"): (14, 14 * whole),
        ("reduce-scatter", "ICI"): (7, 7 * whole),
        ("all-reduce", "DCN"): (7, 7 * whole // 4),
    }


@pytest.mark.parametrize(
    ("name", "sizes", "route"),
    [
        ("v5e:4x4", {"data": 1, "fsdp": 16}, Route(16, 2)),  # open at its ends: one each way
        ("v5e:16x16", {"data": 1, "fsdp": 256}, Route(256, 4)),  # rings
        ("v5e:16x16", {"data": 16, "fsdp": 16}, Route(16, 2)),  # one of them
        ("v5p:4x4x4", {"data": 1, "fsdp": 64}, Route(64, 6)),
    ],
)
def test_links_by_the_grid(open_topology, name, sizes, route):
    topology = open_topology(name)
    devices = make_mesh(**sizes, devices=topology.devices).devices
    group = tuple(range(sizes["fsdp"]))
    item = Collective("channel 1", "all-gather", 1, 100, group)
    assert collectives.route(item, devices.reshape(-1), topology) == route
