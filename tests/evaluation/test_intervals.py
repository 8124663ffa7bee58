"""Bootstrap intervals: width, groups, pairs."""

from collections import Counter

import numpy as np
import pytest

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Item, Judged, Verdict
from owl_jax.evaluation.intervals import difference, interval, interval_over_runs


def judged(scores, group=lambda index: ""):
    return [
        Judged(Item(str(i), "?", group=group(i)), "", Verdict(None, float(score)))
        for i, score in enumerate(scores)
    ]


def accuracy(items):
    return sum(one.verdict.score for one in items) / len(items)


def test_the_interval_of_a_mean_is_the_normal_one():
    """1.96 standard errors on each side for 400 independent items, to a tenth."""
    found = interval(judged([1, 0, 0, 0] * 100), accuracy)
    error = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert found.low == pytest.approx(0.25 - error, abs=error / 10)
    assert found.high == pytest.approx(0.25 + error, abs=error / 10)


def test_items_of_one_group_are_drawn_together():
    """Four equal items of each picture tell no more than one: twice as wide an interval."""
    scores = np.repeat([1, 0] * 50, 4)
    alone = interval(judged(scores), accuracy)
    grouped = interval(judged(scores, lambda i: f"picture {i // 4}"), accuracy)
    ratio = (grouped.high - grouped.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(2, rel=0.1)


def test_a_group_that_is_drawn_twice_counts_twice():
    """A statistic by groups, as of circular questions, sees two groups and not one larger one."""
    sizes = set()

    def of_groups(items):
        counts = Counter(one.item.group for one in items)
        sizes.update(counts.values())
        return len(counts)

    found = interval(judged([0] * 12, lambda i: f"question {i // 3}"), of_groups, draws=50)
    assert sizes == {3}
    assert (found.low, found.high) == (4, 4)


def test_an_interval_depends_on_its_seed_only():
    items = judged([1, 0, 1, 1, 0, 0, 1])
    assert interval(items, accuracy, seed=3) == interval(items, accuracy, seed=3)
    wide = judged(np.random.default_rng(0).random(50))
    assert interval(wide, accuracy, seed=3) != interval(wide, accuracy, seed=4)


def test_two_models_are_compared_on_the_same_draws():
    """The second is right wherever the first is, and at ten more items of a hundred."""
    first = judged([1] * 40 + [0] * 60)
    second = judged([1] * 50 + [0] * 50)[::-1]  # in another order
    found = difference(first, second, accuracy)
    assert found.value == pytest.approx(0.1)
    assert 0.03 < found.interval.low < 0.06 and 0.14 < found.interval.high < 0.18
    assert found.share_above == pytest.approx(1, abs=0.001)
    same = difference(first, first, accuracy)
    assert (same.value, same.interval.low, same.interval.high) == (0, 0, 0)
    assert same.share_above == 0.5


def test_models_with_other_items_are_not_compared():
    with pytest.raises(UserError, match="the two models answered other items"):
        difference(judged([1, 0]), judged([1]), accuracy)


def test_the_interval_of_one_run_is_that_of_its_items():
    scores = np.array([[1.0, 0, 0, 0] * 100])
    found = interval_over_runs(scores, list(map(str, range(400))))
    error = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert found.low == pytest.approx(0.25 - error, abs=error / 10)
    assert found.high == pytest.approx(0.25 + error, abs=error / 10)


def test_items_of_one_group_are_drawn_together_for_all_runs():
    scores = np.repeat([[1.0, 0] * 50] * 3, 4, axis=1)
    alone = interval_over_runs(scores, list(map(str, range(400))))
    grouped = interval_over_runs(scores, [f"picture {i // 4}" for i in range(400)])
    ratio = (grouped.high - grouped.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(2, rel=0.1)


def test_a_larger_group_counts_by_its_items():
    """Three items right of a group of three, none of the single ones: 0 to 1, and 3/4 at most
    where both groups are drawn."""
    found = interval_over_runs(np.array([[1.0, 1, 1, 0]]), ["a", "a", "a", "b"])
    assert (found.low, found.high) == (0, 1)
    same = interval_over_runs(np.array([[0.5, 0.5, 0.5, 0.5]]), ["a", "a", "a", "b"])
    assert (same.low, same.high) == (0.5, 0.5)


def test_runs_are_drawn_too():
    """Runs that each answer all items alike: the items leave nothing to chance, the runs do."""
    found = interval_over_runs(np.array([[1.0] * 50, [0.0] * 50]), list(map(str, range(50))))
    assert (found.low, found.high) == (0, 1)
    spread = np.repeat(np.random.default_rng(0).normal(size=(100, 1)), 50, axis=1)
    found = interval_over_runs(spread, list(map(str, range(50))))
    error = 1.96 * spread.std() / 10
    assert found.high - found.low == pytest.approx(2 * error, rel=0.1)
