import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from small_hlo import TEXT

from owl_jax.aot import work
from owl_jax.aot.hlo import parse
from owl_jax.aot.runs import count_runs, endless_loop
from owl_jax.parallel.mesh import make_mesh


def test_loops_multiply():
    """From 2 to below 7 are five turns, of three turns of the inner loop each."""
    runs = count_runs(parse(TEXT))
    assert runs.scheduled == {"main": 1, "body": 5, "inner_body": 15}
    assert runs.inside == runs.scheduled | {"product": 5}
    assert runs.unknown == []


def test_what_the_compiler_notes_goes_first():
    noted = 'body=%body, backend_config={"known_trip_count":{"n":"11"}}'
    runs = count_runs(parse(TEXT.replace("body=%body", noted)))
    assert runs.scheduled == {"main": 1, "body": 11, "inner_body": 33}


def test_a_comparison_inside_a_fusion():
    fused = """\
%compared (bound: s32[], turn: s32[]) -> pred[] {
  %bound = s32[] parameter(0)
  %turn = s32[] parameter(1)
  ROOT %less = pred[] compare(%turn, %bound), direction=LE
}

%condition ("""
    text = TEXT.replace("%condition (", fused).replace(
        "pred[] compare(%turn.3, %seven), direction=LT",
        "pred[] fusion(%seven, %turn.3), kind=kLoop, calls=%compared",
    )
    assert count_runs(parse(text)).scheduled["body"] == 6


def test_a_loop_of_unknown_length_counts_once_and_is_named():
    text = TEXT.replace("%seven = s32[] constant(7)", "%seven = s32[] add(%turn.3, %turn.3)")
    runs = count_runs(parse(text))
    assert runs.scheduled == {"main": 1, "body": 1, "inner_body": 3}
    assert runs.unknown == ["loop"]
    assert endless_loop(parse(text)) == "body"
    assert endless_loop(parse(TEXT)) is None
    assert count_runs(parse(text), "body").scheduled == {"body": 1, "inner_body": 3}


def test_a_call_is_scheduled_and_a_start_is_not():
    text = TEXT.replace(
        "ROOT %next.4",
        "%called = f32[8,4]{1,0} call(%whole, %weight), to_apply=%product\n"
        "  %begun = ((f32[8,16], f32[16,4]), f32[8,4], s32[]) async-start(%whole, %weight), "
        "calls=%product\n"
        "  %done = f32[8,4]{1,0} async-done(%begun), calls=%product\n"
        "  ROOT %next.4",
    )
    runs = count_runs(parse(text))
    assert runs.scheduled["product"] == 5
    assert runs.inside["product"] == 15


def test_a_compiled_scan_of_seven_counts_seven_times(open_topology):
    """Seven turns, each with three turns of a product: 2 x 128^3 operations each."""
    mesh = make_mesh(devices=open_topology("v5e:2x2").devices)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def turns(x: jax.Array, w: jax.Array) -> jax.Array:
        def outer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            inner = lambda i, x: jnp.tanh(x @ w)  # noqa: E731
            return jax.lax.fori_loop(2, 5, inner, x), None

        return jax.lax.scan(outer, x, w)[0]

    x, w = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=everywhere)
        for shape in ((128, 128), (7, 128, 128))
    )
    compiled = jax.jit(turns).lower(x, w).compile()
    runs = count_runs(parse(compiled.as_text()))
    assert runs.unknown == []
    assert work.product_flops(runs) == 7 * 3 * 2 * 128**3
