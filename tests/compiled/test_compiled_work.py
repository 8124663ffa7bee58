"""Operations of programs that the TPU's compiler made: products, Pallas kernels, loops."""

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
    assert work.matmul_flops(count_runs(parse(compiled.as_text()))) == expected


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
    assert work.matmul_flops(runs) == 7 * 3 * 2 * 128**3
