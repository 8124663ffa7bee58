import pytest

from owl_jax.aot import work
from owl_jax.aot.hlo import parse
from owl_jax.aot.runs import count_runs


def flops(left, right, result, attributes, opcode="convolution"):
    """Of a module with one product."""
    text = f"""\
ENTRY %main (left: {left}, right: {right}) -> {result} {{
  %left = {left}{{1,0}} parameter(0)
  %right = {right}{{1,0}} parameter(1)
  ROOT %product = {result}{{1,0}} {opcode}(%left, %right), {attributes}
}}
"""
    return work.matmul_flops(count_runs(parse(text)))


def test_a_dot_contracts():
    attributes = "lhs_batch_dims={0}, lhs_contracting_dims={1,3}, rhs_contracting_dims={1,2}"
    result = flops("f32[2,3,5,7]", "f32[2,3,7,11]", "f32[2,5,11]", attributes, "dot")
    assert result == 2 * (2 * 5 * 11) * (3 * 7)


@pytest.mark.parametrize(
    ("left", "right", "result", "attributes", "products"),
    [
        # A plain product, as the TPU's compiler writes it.
        ("bf16[4,2048,64]", "bf16[64,100,1]", "bf16[4,2048,100]",
         "window={size=1}, dim_labels=0bf_io0->0bf", 4 * 2048 * 64 * 100),
        # To 32 heads: all but one of a window's places fall on padding.
        ("bf16[4,20,64,1]", "bf16[64,32,16,1]", "bf16[4,20,32,16]",
         "window={size=1x32 pad=0_0x31_31 rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f",
         4 * 20 * 64 * 32 * 16),
        # From heads: the window sums over them.
        ("bf16[4,20,32,16]", "bf16[32,16,64,1]", "bf16[4,20,64,1]",
         "window={size=1x32}, dim_labels=0b1f_1io0->0bf1", 4 * 20 * 32 * 16 * 64),
        # Batches of rows and heads: dilated, with a stride that meets each once.
        ("bf16[4,32,20,16]", "bf16[4,32,24,16]", "f32[4,32,20,24]",
         "window={size=4x32 stride=3x31 lhs_dilate=4x32}, dim_labels=01bf_01oi->01bf",
         4 * 32 * 20 * 24 * 16),
        # The same with the dilation one less than the stride, and padding.
        ("bf16[4,32,20,16]", "bf16[4,32,24,16]", "f32[4,32,20,24]",
         "window={size=4x32 stride=4x32 pad=3_3x31_31 lhs_dilate=3x31 rhs_reversal=1x1}, "
         "dim_labels=01bf_01oi->01bf", 4 * 32 * 20 * 24 * 16),
        # A convolution that is one: 3 x 3 with padding of one over 5 x 5, 7 channels to 2.
        ("f32[1,5,5,7]", "f32[3,3,7,2]", "f32[1,5,5,2]",
         "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f", 13 * 13 * 7 * 2),
        # Depthwise: each of 6 channels alone.
        ("f32[2,10,6]", "f32[3,1,6]", "f32[2,8,6]",
         "window={size=3}, dim_labels=b0f_0io->b0f, feature_group_count=6", 2 * 8 * 3 * 6),
    ],
)  # fmt: skip
def test_a_convolution_counts_what_does_not_meet_padding(left, right, result, attributes, products):
    assert flops(left, right, result, attributes) == 2 * products


def test_a_kernel_without_formula_is_named_and_not_counted():
    text = """\
ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0} parameter(0)
  ROOT %kernel.1 = f32[8,128]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(f)/my_kernel/pallas_call"}
}
"""
    assert work.kernels(count_runs(parse(text))) == [work.Kernel("my_kernel", 1, None)]
