import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import (
    CausalMask,
    FullMask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha,
)
from jax.sharding import NamedSharding, PartitionSpec

from owl_jax.aot import work
from owl_jax.aot.hlo import parse
from owl_jax.aot.runs import count_runs
from owl_jax.parallel.mesh import make_mesh


def flops(left, right, result, attributes, opcode="convolution"):
    """Of a module with one product."""
    text = f"""\
ENTRY %main (left: {left}, right: {right}) -> {result} {{
  %left = {left}{{1,0}} parameter(0)
  %right = {right}{{1,0}} parameter(1)
  ROOT %product = {result}{{1,0}} {opcode}(%left, %right), {attributes}
}}
"""
    return work.product_flops(count_runs(parse(text)))


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
        # Depthwise: each of 6 channels by itself.
        ("f32[2,10,6]", "f32[3,1,6]", "f32[2,8,6]",
         "window={size=3}, dim_labels=b0f_0io->b0f, feature_group_count=6", 2 * 8 * 3 * 6),
    ],
)  # fmt: skip
def test_a_convolution_counts_what_does_not_meet_padding(left, right, result, attributes, products):
    assert flops(left, right, result, attributes) == 2 * products


def test_a_model_s_products_are_found_in_a_compiled_program(open_topology):
    """Einsums to heads, between heads and from heads, as the decoder has them."""
    B, L, D, H, K = 2, 128, 256, 4, 128
    mesh = make_mesh(devices=open_topology("v5e:2x2").devices)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def layer(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
        q = jnp.einsum("bld,dhk->blhk", x, up)
        scores = jnp.einsum("blhk,bshk->bhls", q, q)
        return jnp.einsum("bhls,bshk,hkd->bld", jnp.tanh(scores), q, down)

    shapes = [(B, L, D), (D, H, K), (H, K, D)]
    arguments = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=everywhere) for s in shapes]
    compiled = jax.jit(layer).lower(*arguments).compile()
    expected = 2 * (2 * B * L * D * H * K + 2 * B * H * L * L * K)
    assert work.product_flops(count_runs(parse(compiled.as_text()))) == expected


@pytest.mark.parametrize("is_causal", [True, False])
def test_attention_kernels_by_formula(open_topology, is_causal):
    """Three runs forward and three of each gradient; causal in four blocks of two: 3 of 4."""
    B, H, L, K, turns = 4, 2, 256, 128, 3
    mesh = make_mesh(devices=open_topology("v5e:2x2").devices)
    rows = NamedSharding(mesh, PartitionSpec("data"))

    def attend(q: jax.Array, segments: jax.Array) -> jax.Array:
        mask = (CausalMask if is_causal else FullMask)((L, L))
        kernel = make_splash_mha(MultiHeadMask([mask] * H), head_shards=1, q_seq_shards=1)
        return jax.vmap(lambda q, s: kernel(q, q, q, segment_ids=SegmentIds(s, s)))(q, segments)

    def loss(q: jax.Array, segments: jax.Array) -> jax.Array:
        rows_of = PartitionSpec("data")
        kernel = jax.shard_map(attend, in_specs=rows_of, out_specs=rows_of, check_vma=False)
        turn = lambda q, _: (kernel(q, segments), None)  # noqa: E731
        return jax.lax.scan(turn, q, None, length=turns)[0].astype(jnp.float32).sum()

    q = jax.ShapeDtypeStruct((B, H, L, K), jnp.bfloat16, sharding=rows)
    segments = jax.ShapeDtypeStruct((B, L), jnp.int32, sharding=rows)
    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss)).lower(q, segments)
    found = work.kernels(count_runs(parse(lowered.compile().as_text())))
    product = turns * 2 * H * L * L * K * (3 / 4 if is_causal else 1)
    kinds = {kind: k for k in found for kind in ("fwd", "dkv", "dq") if kind in k.name}
    assert {kind: (k.runs, k.flops) for kind, k in kinds.items()} == {
        "fwd": (turns, 2 * product),
        "dkv": (turns, 4 * product),
        "dq": (turns, 3 * product),
    }


def test_a_kernel_without_formula_is_named_and_not_counted():
    text = """\
ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0} parameter(0)
  ROOT %kernel.1 = f32[8,128]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(f)/my_kernel/pallas_call"}
}
"""
    assert work.kernels(count_runs(parse(text))) == [work.Kernel("my_kernel", 1, None)]
