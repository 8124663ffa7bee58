import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from owl_jax.aot.hlo import parse
from owl_jax.aot.runs import count_runs
from owl_jax.aot.traffic import bytes_read
from owl_jax.parallel.mesh import make_mesh

TEXT = """\
%fused (a: f32[10,8,128], n: s32[]) -> f32[8,128] {
  %a = f32[10,8,128]{2,1,0} parameter(0)
  %n = s32[] parameter(1)
  %z = s32[] constant(0)
  %cut = f32[1,8,128]{2,1,0} dynamic-slice(%a, %n, %z, %z), dynamic_slice_sizes={1,8,128}
  ROOT %b = f32[8,128]{1,0} bitcast(%cut)
}

%written (a: f32[10,8,128], b: f32[8,128], n: s32[]) -> f32[10,8,128] {
  %a = f32[10,8,128]{2,1,0} parameter(0)
  %b = f32[8,128]{1,0} parameter(1)
  %n = s32[] parameter(2)
  %z = s32[] constant(0)
  %one = f32[1,8,128]{2,1,0} bitcast(%b)
  ROOT %put = f32[10,8,128]{2,1,0} dynamic-update-slice(%a, %one, %n, %z, %z)
}

ENTRY %main (a: f32[10,8,128], n: s32[]) -> f32[10,8,128] {
  %a = f32[10,8,128]{2,1,0} parameter(0)
  %n = s32[] parameter(1)
  %part = f32[8,128]{1,0} fusion(%a, %n), kind=kLoop, calls=%fused
  %near = f32[8,128]{1,0:S(1)} copy(%part)
  %twice = f32[8,128]{1,0} add(%near, %near)
  ROOT %back = f32[10,8,128]{2,1,0} fusion(%a, %twice, %n), kind=kLoop, calls=%written
}
"""


def test_slices_and_what_is_on_the_chip():
    """The slice cut out; its copy to the chip; nothing from there; what is written back, and not
    the array it is written into. The index is four bytes wherever it is used."""
    slice_of_it = 8 * 128 * 4
    assert bytes_read(count_runs(parse(TEXT))) == 3 * slice_of_it + 2 * 4


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
