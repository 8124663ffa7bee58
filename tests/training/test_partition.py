import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.errors import UserError
from owl_jax.training import partition
from owl_jax.training.optimizer import Recipe

RECIPES = {"slow": Recipe(learning_rate=2e-5), "fast": Recipe(learning_rate=1e-4)}


def make_params():
    return {
        "vision": {"layers": {"kernel": jnp.ones((3, 40, 50)), "bias": jnp.ones((3, 50))}},
        "llm": {"layers": {"kernel": jnp.ones((2, 30, 30))}, "head": jnp.ones((30, 7))},
        "lora": {"q": {"a": jnp.ones((30, 2)), "b": jnp.zeros((2, 30))}},
    }


def test_the_first_rule_that_matches_decides():
    labels = partition.assign(
        make_params(),
        [("llm/head", "slow"), ("llm/.*", "frozen"), ("lora/.*", "fast"), (".*", "frozen")],
        RECIPES,
    )
    assert labels == {
        "vision": {"layers": {"kernel": "frozen", "bias": "frozen"}},
        "llm": {"layers": {"kernel": "frozen"}, "head": "slow"},
        "lora": {"q": {"a": "fast", "b": "fast"}},
    }


def test_a_pattern_matches_the_whole_path():
    with pytest.raises(UserError, match=r"'llm'.*matches no parameter"):
        partition.assign(make_params(), [("llm", "slow"), (".*", "frozen")], RECIPES)


def test_every_parameter_without_a_rule_is_listed():
    with pytest.raises(UserError) as error:
        partition.assign(make_params(), [("llm/.*", "frozen"), ("lora/.*/a", "fast")], RECIPES)
    for path in ("lora/q/b", "vision/layers/bias", "vision/layers/kernel"):
        assert path in str(error.value)
    assert "lora/q/a," not in str(error.value)
    assert "\n" not in str(error.value)


def test_every_unknown_recipe_is_listed():
    rules = [("llm/.*", "medium"), ("lora/.*", "fat"), (".*", "frozen")]
    with pytest.raises(UserError) as error:
        partition.assign(make_params(), rules, RECIPES)
    for word in ("'medium'", "'fat'", "fast, frozen, slow"):
        assert word in str(error.value)


def test_a_training_rule_behind_a_catch_all_is_an_error():
    with pytest.raises(UserError, match=r"'lora/\.\*'.*trains nothing"):
        partition.assign(make_params(), [(".*", "frozen"), ("lora/.*", "fast")], RECIPES)


def test_a_freezing_catch_all_may_find_nothing_left():
    rules = [("(llm|lora)/.*", "fast"), ("vision/.*", "slow"), (".*", "frozen")]
    labels = partition.assign(make_params(), rules, RECIPES)
    assert "frozen" not in jax.tree.leaves(labels)


def test_a_broken_pattern_is_shown():
    with pytest.raises(UserError, match=r"'llm/\(' *.*not a regular expression"):
        partition.assign(make_params(), [("llm/(", "slow"), (".*", "frozen")], RECIPES)


def test_frozen_is_a_reserved_name():
    with pytest.raises(UserError, match="reserved"):
        partition.assign(make_params(), [(".*", "frozen")], {"frozen": Recipe(1.0)})


def test_split_prunes_and_merge_restores():
    params = make_params()
    labels = partition.assign(params, [("llm/head|lora/.*", "fast"), (".*", "frozen")], RECIPES)
    trainable, frozen = partition.split(params, labels)
    assert jax.tree.map(jnp.shape, trainable) == {
        "llm": {"head": (30, 7)},
        "lora": {"q": {"a": (30, 2), "b": (2, 30)}},
    }
    assert set(frozen) == {"vision", "llm"}
    assert frozen["llm"]["layers"]["kernel"] is params["llm"]["layers"]["kernel"]
    merged = partition.merge(trainable, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_merge_refuses_a_parameter_that_is_in_both_trees():
    with pytest.raises(ValueError, match="a/b is in both"):
        partition.merge({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}})


def test_split_and_merge_work_on_tracers_and_shapes():
    params = {"train": {"w": jnp.float32(2.0)}, "base": {"w": jnp.float32(5.0)}}
    labels = {"train": {"w": "fast"}, "base": {"w": "frozen"}}

    @jax.jit
    def gradient(params):
        trainable, frozen = partition.split(params, labels)

        def loss(trainable):
            merged = partition.merge(trainable, frozen)
            return merged["train"]["w"] * merged["base"]["w"]

        return jax.grad(loss)(trainable)

    assert jax.tree.map(float, gradient(params)) == {"train": {"w": 5.0}}
    shapes = jax.eval_shape(lambda: params)
    assert partition.split(shapes, labels)[1] == {"base": {"w": shapes["base"]["w"]}}


def test_table():
    params = jax.eval_shape(make_params)
    rules = [("llm/head", "slow"), ("lora/.*", "fast"), (".*", "frozen")]
    labels = partition.assign(params, rules, RECIPES)
    assert partition.table(params, labels, RECIPES).splitlines() == [
        "partition  recipe  parameters  trainable  learning rate",
        "-------------------------------------------------------",
        "llm        frozen       1,800          -              -",
        "llm        slow           210        210          2e-05",
        "lora       fast           120        120         0.0001",
        "vision     frozen       6,150          -              -",
        "-------------------------------------------------------",
        "total                   8,280        330",
    ]
