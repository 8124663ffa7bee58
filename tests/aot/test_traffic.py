from owl_jax.aot import work
from owl_jax.aot.hlo import parse
from owl_jax.aot.runs import count_runs
from owl_jax.aot.traffic import bytes_read

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


BRANCHES = """\
%one (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  ROOT %once = f32[8,128]{1,0} copy(%a)
}

%two (b: f32[8,128]) -> f32[8,128] {
  %b = f32[8,128]{1,0} parameter(0)
  %first = f32[8,128]{1,0} copy(%b)
  ROOT %second = f32[8,128]{1,0} copy(%first)
}

ENTRY %main (p: s32[], x: f32[8,128]) -> f32[8,128] {
  %p = s32[] parameter(0)
  %x = f32[8,128]{1,0} parameter(1)
  ROOT %either = f32[8,128]{1,0} conditional(%p, %x, %x), branch_computations={%one, %two}
}
"""


def test_one_branch_is_taken_the_larger():
    assert bytes_read(count_runs(parse(BRANCHES))) == 2 * 8 * 128 * 4


SCATTERED = """\
%written (a: f32[80,128], at: s32[3,1], b: f32[3,128]) -> f32[80,128] {
  %a = f32[80,128]{1,0} parameter(0)
  %at = s32[3,1]{1,0} parameter(1)
  %b = f32[3,128]{1,0} parameter(2)
  ROOT %put = f32[80,128]{1,0} scatter(%a, %at, %b), update_window_dims={1}, \
inserted_window_dims={0}, scatter_dims_to_operand_dims={0}, index_vector_dim=1, to_apply=%second
}

ENTRY %main (a: f32[10,8,128], at: s32[3,1], b: f32[3,128]) -> f32[10,8,128] {
  %a = f32[10,8,128]{2,1,0} parameter(0)
  %at = s32[3,1]{1,0} parameter(1)
  %b = f32[3,128]{1,0} parameter(2)
  %flat = f32[80,128]{1,0} bitcast(%a)
  %back = f32[80,128]{1,0} fusion(%flat, %at, %b), kind=kCustom, calls=%written, \
backend_config={"aliasing_operands":{"lists":[{"indices":["0","3"]}]}}
  ROOT %result = f32[10,8,128]{2,1,0} bitcast(%back)
}
"""


def test_a_scatter_is_in_place():
    """It reads what is written and where, not the array that it is written to."""
    assert bytes_read(count_runs(parse(SCATTERED))) == 3 * 128 * 4 + 3 * 4


DECODED = """\
ENTRY %main (l: s32[1], r: s32[2,3], q: f32[2,4,1,128], c: f32[9,2,4,1024,128]) -> f32[2,4,1,128] {
  %l = s32[1]{0} parameter(0)
  %r = s32[2,3]{1,0} parameter(1)
  %q = f32[2,4,1,128]{3,2,1,0} parameter(2)
  %c = f32[9,2,4,1024,128]{4,3,2,1,0} parameter(3)
  ROOT %y = f32[2,4,1,128]{3,2,1,0} custom-call(%l, %r, %q, %q, %q, %c, %c), \
custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/ragged_decode/pallas_call"}
}
"""


def test_the_ragged_kernel_reads_half_of_a_layer_s_slots_and_half_a_chunk():
    small = 4 * (1 + 2 * 3 + 3 * 2 * 4 * 128)
    runs = count_runs(parse(DECODED))
    assert bytes_read(runs) == small + 2 * 4 * (2 * 4 * 128 * (512 + 64))
    (kernel,) = work.kernels(runs)
    assert kernel == work.Kernel("ragged_decode", 1, 2 * 2 * 2 * 4 * 512 * 128)
    by_column = DECODED.replace("1024,128]", "128,1024]")
    assert bytes_read(count_runs(parse(by_column))) == bytes_read(runs)


WRITTEN = """\
ENTRY %main (l: s32[2], n: f32[9,2,4,1,64], c: f32[9,2,4,64,1024]) -> f32[9,2,4,64,1024] {
  %l = s32[2]{0} parameter(0)
  %n = f32[9,2,4,1,64]{4,3,2,1,0} parameter(1)
  %c = f32[9,2,4,64,1024]{4,3,2,1,0} parameter(2)
  ROOT %y = f32[9,2,4,64,1024]{4,3,2,1,0} custom-call(%l, %n, %c), \
custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/write_columns/pallas_call"}
}
"""


def test_writing_a_column_reads_its_tiles():
    runs = count_runs(parse(WRITTEN))
    assert bytes_read(runs) == 4 * (2 + 9 * 2 * 4 * 64 + 9 * 2 * 4 * 64 * 128)
    assert work.kernels(runs) == [work.Kernel("write_columns", 1, 0.0)]


USED_ON_THE_WAY = """\
%product (a: f32[8,128], b: f32[1,128], n: s32[], x: f32[128,16]) -> f32[8,16] {
  %a = f32[8,128]{1,0} parameter(0)
  %b = f32[1,128]{1,0} parameter(1)
  %n = s32[] parameter(2)
  %x = f32[128,16]{1,0} parameter(3)
  %z = s32[] constant(0)
  %put = f32[8,128]{1,0} dynamic-update-slice(%a, %b, %n, %z)
  ROOT %dot = f32[8,16]{1,0} dot(%put, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[8,128], b: f32[1,128], n: s32[], x: f32[128,16]) -> f32[8,16] {
  %a = f32[8,128]{1,0} parameter(0)
  %b = f32[1,128]{1,0} parameter(1)
  %n = s32[] parameter(2)
  %x = f32[128,16]{1,0} parameter(3)
  ROOT %y = f32[8,16]{1,0} fusion(%a, %b, %n, %x), kind=kOutput, calls=%product
}
"""


def test_an_update_that_is_no_result_reads_what_it_is_put_into():
    """A product of the updated array needs all of it; written in place it would need the update."""
    assert bytes_read(count_runs(parse(USED_ON_THE_WAY))) == 4 * (8 * 128 + 128 + 1 + 128 * 16)
