import numpy as np
import pytest
from small_hlo import TEXT

from owl_jax.aot.estimate import estimate, of_computation
from owl_jax.aot.hlo import parse
from owl_jax.aot.runs import count_runs
from owl_jax.aot.topology import Topology
from owl_jax.parallel.chips import CHIPS

V5E = CHIPS["v5e"]

ASYNC = """\
%piece (x: f32[4]) -> f32[8] {
  %x = f32[4] parameter(0)
  ROOT %g = f32[8] all-gather(%x), channel_id=2, dimensions={0}
}

ENTRY %main (x: f32[4]) -> f32[8] {
  %x = f32[4] parameter(0)
  %start = (f32[4], f32[8]) all-gather-start(%x), channel_id=1, dimensions={0}
  %p.1 = f32[8] fusion(%x), kind=kCustom, calls=%piece
  %a = f32[4] add(%x, %x), backend_config={"estimated_cycles":"CYCLES"}
  %p.2 = f32[8] fusion(%x), kind=kCustom, calls=%piece
  %done = f32[8] all-gather-done(%start)
  %b = f32[4] add(%x, %x), backend_config={"estimated_cycles":"1000"}
  %sync = f32[8] all-gather(%x), channel_id=3, dimensions={0}
  ROOT %c = f32[8] add(%done, %p.2)
}
"""
WIRE = {"channel 1": 3e-6, "channel 2": 2e-6, "channel 3": 1e-6}


def of_async(cycles):
    module = parse(ASYNC.replace("CYCLES", str(int(cycles))))
    return of_computation(module, module.entry, WIRE, V5E)


def test_what_goes_on_beside_operations_is_hidden():
    """Ten microseconds of an operation hide the five that two gathers take; the third waits."""
    result = of_async(10e-6 * V5E.clock)
    assert result.operations == pytest.approx(10e-6 + 1000 / V5E.clock, rel=1e-3)
    assert result.exposed == pytest.approx(1e-6)
    assert result.wire == pytest.approx(6e-6)
    assert result.total == pytest.approx(result.operations + 1e-6)


def test_the_wire_takes_one_after_another():
    """One microsecond of an operation: the second gather, in parts, ends five after the start."""
    assert of_async(1e-6 * V5E.clock).exposed == pytest.approx(4e-6 + 1e-6, rel=1e-3)


def test_loops_multiply_and_kernels_run_at_two_fifths_of_the_peak():
    topology = Topology("v5e:2x2", V5E, (2, 2), slices=1, devices=())
    kernel = """\
  %s.1 = bf16[2,256,128]{2,1,0} custom-call(%q, %q, %q), custom_call_target="tpu_custom_call", \
metadata={op_name="splash_mha_fwd/pallas_call"}
  %zero.4 ="""
    text = TEXT.replace("  %zero.4 =", kernel).replace(
        "  %turn.4 =", "  %q = bf16[2,256,128]{2,1,0} broadcast(%state.4)\n  %turn.4 ="
    )
    runs = count_runs(parse(text))
    result = estimate(runs, [], np.array([]), topology)
    assert result.operations == pytest.approx(5 * 3000 / V5E.clock)
    flops = 2 * 2 * (2 * 256 * 256) * 128
    assert result.kernels == pytest.approx(5 * flops / (0.4 * 197e12))


def test_a_kernel_takes_at_least_the_time_of_its_reading():
    text = """\
ENTRY %main (x: f32[8,1024]) -> f32[8,1024] {
  %x = f32[8,1024]{1,0} parameter(0)
  ROOT %kernel.1 = f32[8,1024]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(f)/my_kernel/pallas_call"}
}
"""
    module = parse(text)
    result = of_computation(module, module.entry, {}, V5E)
    assert result.kernels == pytest.approx(4 * 8 * 1024 / V5E.hbm_bandwidth)
