import pytest
from small_hlo import TEXT

from owl_jax.aot.hlo import parse
from owl_jax.aot.runs import count_runs, endless_loop


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


GROWN = "%grown = s32[] add(%turn.4, %by)"
FUSED = """\
%added (turn: s32[], by: s32[]) -> s32[] {
  %turn = s32[] parameter(0)
  %by.1 = s32[] parameter(1)
  ROOT %sum.1 = s32[] add(%turn, %by.1)
}

%body ("""


@pytest.mark.parametrize(("step", "turns"), [(1, 5), (2, 3), (5, 1)])
@pytest.mark.parametrize("is_fused", [False, True])
def test_a_counter_that_grows_by_more(step, turns, is_fused):
    """From 2 to below 7: as the compiler leaves a loop of which it made several turns one."""
    grown = GROWN
    text = TEXT
    if is_fused:
        grown = "%grown = s32[] fusion(%turn.4, %by), kind=kLoop, calls=%added"
        text = text.replace("%body (", FUSED)
    text = text.replace(
        "  %zero.4 =", f"  %by = s32[] constant({step})\n  {grown}\n  %zero.4 ="
    ).replace("tuple(%turn.4, %part", "tuple(%grown, %part")
    assert count_runs(parse(text)).scheduled["body"] == turns


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
