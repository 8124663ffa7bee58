import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.errors import UserError
from owl_jax.models.families.mplug_owl import VARIANTS
from owl_jax.training import partition
from owl_jax.training.optimizer import (
    Recipe,
    decayed,
    learning_rates,
    make_optimizer,
    matrices,
    schedule,
)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cosine", [0.0, 0.5, 1.0, 0.55, 0.1, 0.1]),
        ("linear", [0.0, 0.5, 1.0, 0.55, 0.1, 0.1]),
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedule_rises_falls_and_stays(kind, expected):
    rate = schedule(
        Recipe(1.0, schedule=kind, warmup_steps=4, final_learning_rate=0.1), total_steps=12
    )
    np.testing.assert_allclose([rate(step) for step in (0, 2, 4, 8, 12, 20)], expected, atol=1e-6)


def test_cosine_and_linear_differ_between_their_ends():
    rates = [schedule(Recipe(1.0, schedule=kind), 100)(25) for kind in ("cosine", "linear")]
    np.testing.assert_allclose(rates, [0.5 + 0.5 * np.cos(np.pi / 4), 0.75], atol=1e-6)


def test_without_warmup_the_first_step_has_the_peak():
    assert schedule(Recipe(3e-4), 10)(0) == pytest.approx(3e-4)


def test_a_rate_of_zero_stays_zero():
    assert schedule(Recipe(0.0), 10)(5) == 0.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "cosin"}, "cosin.*cosine, linear, constant"),
        ({"optimizer": "moun"}, "moun.*adamw, muon"),
        ({"dtype": "float16"}, "float16.*float32"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"final_learning_rate": 2.0}, "above learning_rate"),
    ],
)
def test_impossible_recipes_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        Recipe(1.0, **values)


def test_warmup_must_end_before_the_training():
    with pytest.raises(UserError, match="warmup_steps=10 is not below the 10 steps"):
        schedule(Recipe(1.0, warmup_steps=10), 10)


def test_learning_rates_are_those_of_the_schedules():
    recipes = {
        "a": Recipe(1.0, schedule="linear"),
        "b": Recipe(0.5, schedule="constant", warmup_steps=2),
    }
    rates = learning_rates(recipes, 10, 1)
    assert {name: float(rate) for name, rate in rates.items()} == {
        "learning_rate/a": pytest.approx(0.9),
        "learning_rate/b": pytest.approx(0.25),
    }
    traced = jax.jit(lambda step: learning_rates(recipes, 10, step))(1)
    assert float(traced["learning_rate/a"]) == pytest.approx(0.9)


def test_vectors_of_each_layer_do_not_decay():
    shapes = {
        "layers": {"w": (4, 8, 8), "norm": {"scale": (4, 8)}, "q": {"bias": (4, 2, 4)}},
        "class_token": (8,),
        "query": (6, 8),
    }
    params = jax.tree.map(jnp.ones, shapes, is_leaf=lambda x: isinstance(x, tuple))
    assert decayed(params) == {
        "layers": {"w": True, "norm": {"scale": False}, "q": {"bias": False}},
        "class_token": False,
        "query": True,
    }


def two_partitions():
    params = {
        "llm": {"base": jnp.ones((5, 5))},
        "lora": {"layers": {"a": jnp.full((2, 3, 3), 2.0), "scale": jnp.full((2, 3), 2.0)}},
        "connector": {"w": jnp.full((4, 4), 2.0)},
    }
    rules = [("llm/.*", "frozen"), ("lora/.*", "lora"), (".*", "connector")]
    recipes = {
        "lora": Recipe(0.1, schedule="constant", weight_decay=0.5),
        "connector": Recipe(0.01, schedule="constant"),
    }
    labels = partition.assign(params, rules, recipes)
    trainable, _ = partition.split(params, labels)
    return trainable, partition.split(labels, labels)[0], recipes


def test_frozen_leaves_have_no_optimizer_state():
    trainable, labels, recipes = two_partitions()
    state = make_optimizer(recipes, labels, 10, clip_norm=1.0).init(trainable)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    # Two moments for each of the three trainable leaves, and scalar counters.
    assert sorted(shape for shape in shapes if shape) == sorted(
        [(2, 3, 3), (2, 3), (4, 4)] * 2, key=lambda shape: shape
    )


def test_each_partition_gets_its_recipe():
    trainable, labels, recipes = two_partitions()
    optimizer = make_optimizer(recipes, labels, 10, clip_norm=None)
    gradients = jax.tree.map(jnp.ones_like, trainable)
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(trainable), trainable)
    # Adam's first update is -rate * sign(gradient); the decay is rate * 0.5 * 2.
    np.testing.assert_allclose(updates["lora"]["layers"]["a"], -0.1 - 0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["lora"]["layers"]["scale"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["connector"]["w"], -0.01, rtol=1e-5)


def test_the_norm_is_clipped_over_all_trainable_partitions():
    params = {"a": jnp.zeros((3,)), "b": jnp.zeros((3,))}
    labels = {"a": "a", "b": "b"}
    recipes = {name: Recipe(1.0, schedule="constant", eps=1.0) for name in labels}
    gradients = {"a": jnp.array([3.0, 0, 0]), "b": jnp.array([0, 4.0, 0])}
    clipped = jax.tree.map(lambda g: g / 5.0, gradients)
    with_clip = make_optimizer(recipes, labels, 10, clip_norm=1.0)
    without = make_optimizer(recipes, labels, 10, clip_norm=None)
    got, _ = with_clip.update(gradients, with_clip.init(params), params)
    expected, _ = without.update(clipped, without.init(params), params)
    jax.tree.map(np.testing.assert_allclose, got, expected)
    assert float(jnp.abs(expected["b"]).max()) > 0.1


def test_nothing_to_train_is_an_error():
    with pytest.raises(UserError, match="every parameter is frozen"):
        make_optimizer({}, {}, 10, None)


def orthogonal(matrix):
    """U V^T of the singular value decomposition: what Muon's iteration comes close to."""
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    return u @ v


def test_muon_orthogonalizes_each_layers_matrix_with_its_heads_joined():
    shapes = {
        "layers": {
            "q_proj": {"kernel": (2, 6, 2, 3)},
            "o_proj": {"kernel": (2, 2, 3, 6)},
            "up_proj": {"kernel": (2, 6, 10), "bias": (2, 10)},
            "temporal": {"kernel": (2, 3, 6)},
        },
        "lm_head": {"kernel": (6, 20)},
    }
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda s: rng.normal(size=s).astype("f4"), shapes, is_leaf=is_shape)
    params = jax.tree.map(jnp.zeros_like, gradients)
    labels = jax.tree.map(lambda _: "all", params)
    recipes = {"all": Recipe(0.1, "muon", "constant")}
    optimizer = make_optimizer(recipes, labels, 10, clip_norm=None)
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)

    kernels = {name: leaf["kernel"] for name, leaf in updates["layers"].items()}
    for name in ("q_proj", "o_proj", "up_proj"):
        for layer in range(2):
            update = np.asarray(kernels[name][layer]).reshape(6, -1)
            wanted = orthogonal(gradients["layers"][name]["kernel"][layer].reshape(6, -1))
            scale = -0.1 * 0.2 * max(update.shape) ** 0.5
            singular = np.linalg.svd(update / scale, compute_uv=False)
            assert 0.6 < singular.min() <= singular.max() < 1.3
            assert np.vdot(update / scale, wanted) > 0.8 * np.vdot(wanted, wanted)
    # Everything else gets AdamW's first step: the rate, against the gradient's sign.
    for update, gradient in (
        (kernels["temporal"], gradients["layers"]["temporal"]["kernel"]),
        (updates["layers"]["up_proj"]["bias"], gradients["layers"]["up_proj"]["bias"]),
        (updates["lm_head"]["kernel"], gradients["lm_head"]["kernel"]),
    ):
        np.testing.assert_allclose(update, -0.1 * np.sign(gradient), rtol=1e-3)


IN_1_OUT_1, IN_1_OUT_2, IN_2_OUT_1 = ((1,), (2,)), ((1,), (2, 3)), ((1, 2), (3,))
FUSED = ((1,), (2, 3, 4))  # q, k and v of all heads
MATRICES = {
    "vision": {"qkv": FUSED, "out": IN_2_OUT_1, "up": IN_1_OUT_1, "down": IN_1_OUT_1},
    "connector": {"query": IN_1_OUT_2, "key": IN_1_OUT_2, "value": IN_1_OUT_2, "out": IN_2_OUT_1}
    | dict.fromkeys(("gate", "up", "down"), IN_1_OUT_1),
    "llama": {"q_proj": IN_1_OUT_2, "k_proj": IN_1_OUT_2, "v_proj": IN_1_OUT_2}
    | {"o_proj": IN_2_OUT_1}
    | dict.fromkeys(("gate_proj", "up_proj", "down_proj"), IN_1_OUT_1),
    "bloom": {"query_key_value": FUSED, "dense": IN_2_OUT_1}
    | dict.fromkeys(("dense_h_to_4h", "dense_4h_to_h"), IN_1_OUT_1),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_muon_knows_the_axes_of_every_kernel_of_the_released_models(name):
    model = VARIANTS[name]
    found = {}
    axes = flatten_dict(matrices(abstract_params(model)), is_leaf=lambda _, leaf: leaf is None)
    for (branch, *path), numbers in axes.items():
        if numbers is not None:
            found.setdefault(branch, {})[".".join(path[1:-1])] = tuple(numbers)
    expected = {
        "vision": dict(MATRICES["vision"]),
        "connector": MATRICES["connector"],
        "llm": MATRICES[model.llm.architecture],
    }
    if model.vision.temporal:
        expected["vision"] |= {"temporal.up": IN_1_OUT_1, "temporal.down": IN_1_OUT_1}
    assert found == expected


def test_muon_keeps_one_moment_for_a_matrix():
    params = {"layers": {"up_proj": {"kernel": jnp.zeros((2, 6, 10))}}, "norm": jnp.zeros((6,))}
    labels = jax.tree.map(lambda _: "all", params)
    state = make_optimizer({"all": Recipe(0.1, "muon")}, labels, 10, None).init(params)
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state) if 6 in leaf.shape)
    assert shapes == [(2, 6, 10), (6,), (6,)]
