import pytest
from small_hlo import TEXT

from owl_jax.aot.hlo import Array, parse


def test_computations_in_order_and_the_entry():
    module = parse(TEXT)
    assert list(module.computations) == [
        "add", "product", "inner_condition", "inner_body", "condition", "body", "main"
    ]  # fmt: skip
    assert module.entry.name == "main"
    assert module.entry.root.name == "result"


def test_an_instruction():
    fusion = parse(TEXT).computations["body"].by_name["fusion.1"]
    assert fusion.opcode == "fusion"
    assert fusion.arrays == (Array("f32", (8, 4)),)
    assert fusion.operands == ("whole", "weight")
    assert fusion.called == ("product",)
    assert fusion.op_name == "jit(step)/mlp/dot_general"
    assert fusion.attribute("kind") == "kOutput"
    assert fusion.attribute("dim_labels") is None


def test_the_type_says_where_it_lies():
    body = parse(TEXT).computations["body"]
    assert body.by_name["whole"].arrays == (Array("f32", (8, 16), space=1),)
    assert body.by_name["part"].arrays[0].space == 0
    assert str(body.by_name["whole"].arrays[0]) == "f32[8,16]"


def test_a_tuple_s_leaves():
    state = parse(TEXT).computations["condition"].by_name["state.3"]
    assert [array.shape for array in state.arrays] == [(), (4, 16), (16, 4)]
    assert state.nbytes == 4 + 4 * 64 + 4 * 64
    assert state.literal == "0"


def test_an_attribute_may_hold_a_line_break():
    root = parse(TEXT).entry.root
    assert root.op_name == "jit(step)/out"
    assert root.operands == ("loop",)


@pytest.mark.parametrize(
    ("dtype", "nbytes"),
    [
        ("bf16", 20),
        ("f32", 40),
        ("s8", 10),
        ("pred", 10),
        ("s4", 5),
        ("f8e4m3fn", 10),
        ("token", 0),
    ],
)
def test_bytes(dtype, nbytes):
    assert Array(dtype, (2, 5)).nbytes == nbytes


def test_another_text_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("module {\n}\n")
