import pytest
from small_hlo import TEXT

from owl_jax.aot import collectives
from owl_jax.aot.collectives import Collective, Route
from owl_jax.aot.hlo import parse
from owl_jax.aot.runs import count_runs
from owl_jax.parallel.chips import CHIPS


def test_count_and_bytes_of_the_larger_side():
    found = collectives.find(count_runs(parse(TEXT)), devices=4)
    assert found == [
        Collective("channel 1", "all-gather", 5, 8 * 16 * 4, (0, 1)),
        Collective("channel 2", "all-reduce", 15, 8 * 4 * 4, (0, 1)),
    ]


def test_a_collective_in_parts_counts_once():
    """As the compiler hides a gather in products: a start, a step of it in a fusion, a done."""
    gather = "all-gather(%part), channel_id=1"
    parts = f"""\
%step (part: f32[4,16]) -> f32[8,16] {{
  %part = f32[4,16] parameter(0)
  ROOT %inside = f32[8,16] {gather}, replica_groups={{{{0,1}},{{2,3}}}}
}}

%body ("""
    text = TEXT.replace("%body (", parts).replace(
        "  %zero.4 =",
        "  %more = f32[8,16] fusion(%part), kind=kCustom, calls=%step\n"
        "  %end = f32[8,16] fusion(%part), kind=kCustom, calls=%step\n  %zero.4 =",
    )
    kinds = [(item.kind, item.runs) for item in collectives.find(count_runs(parse(text)), 4)]
    assert kinds == [("all-gather", 5), ("all-reduce", 15)]


def test_a_call_s_collectives_count_once():
    text = """\
%called (x: bf16[4,16]) -> bf16[8,16] {
  %x = bf16[4,16]{1,0} parameter(0)
  ROOT %g = bf16[8,16]{1,0} all-gather(%x), channel_id=3, dimensions={0}
}

ENTRY %main (x: bf16[4,16]) -> bf16[8,16] {
  %x = bf16[4,16]{1,0} parameter(0)
  ROOT %y = bf16[8,16]{1,0} call(%x), to_apply=%called
}
"""
    assert [item.runs for item in collectives.find(count_runs(parse(text)), devices=2)] == [1]


def test_an_asynchronous_start_gives_what_it_gathers():
    text = """\
ENTRY %main (x: bf16[4,16]) -> bf16[8,16] {
  %x = bf16[4,16]{1,0} parameter(0)
  %start = (bf16[4,16]{1,0}, bf16[8,16]{1,0}) all-gather-start(%x), channel_id=3, dimensions={0}
  ROOT %done = bf16[8,16]{1,0} all-gather-done(%start)
}
"""
    (found,) = collectives.find(count_runs(parse(text)), devices=2)
    assert found == Collective("channel 3", "all-gather", 1, 8 * 16 * 2, (0, 1))


def test_seconds_on_the_wire():
    v5e = CHIPS["v5e"]
    gather = Collective("a", "all-gather", 1, 10**9, (0, 1, 2, 3))
    assert collectives.seconds(gather, Route(4, 2), v5e) == pytest.approx(0.75e9 / 100e9)
    total = Collective("b", "all-reduce", 1, 10**9, (0, 1, 2, 3))
    assert collectives.seconds(total, Route(4, 2), v5e) == pytest.approx(1.5e9 / 100e9)
    assert collectives.seconds(total, Route(2, 0), v5e) == pytest.approx(1e9 / 3.125e9)
