"""What a program that the TPU's compiler made reads from memory."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from owl_jax.aot.hlo import parse
from owl_jax.aot.runs import count_runs
from owl_jax.aot.traffic import bytes_read
from owl_jax.parallel.mesh import make_mesh


def test_a_compiled_scan_reads_each_layer_s_weight_once(open_topology):
    """Weights too large to be kept on the chip, rows so few that they stay there."""
    mesh = make_mesh(devices=open_topology("v5e:2x2").devices)
    everywhere = NamedSharding(mesh, PartitionSpec())
    w = jax.ShapeDtypeStruct((7, 4096, 4096), jnp.bfloat16, sharding=everywhere)
    x = jax.ShapeDtypeStruct((8, 4096), jnp.bfloat16, sharding=everywhere)
    run = lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]  # noqa: E731
    runs = count_runs(parse(jax.jit(run).lower(x, w).compile().as_text()))
    weights = 7 * 4096 * 4096 * 2
    assert weights <= bytes_read(runs) < 1.01 * weights
