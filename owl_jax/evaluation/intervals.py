"""Bootstrap intervals of a benchmark's headline number, and of the difference of two models.

Groups of items are drawn with replacement, since the questions about one picture, or the turns of a
circular question, are not independent (Efron and Tibshirani 1993, chapter 8). Of a model that was
trained several times, the training runs are drawn too.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Item, Judged

Statistic = Callable[[Sequence[Judged]], float]

DRAWS = 1000
_LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """The 95 % interval [low, high] of a number."""

    low: float
    high: float


def interval(
    judged: Sequence[Judged], statistic: Statistic, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """The percentile interval of statistic(judged). Deterministic for a seed."""
    groups = _groups(judged)
    found = [statistic(groups.resampled(counts)) for counts in groups.draws(seed, draws)]
    return _percentiles(found)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two models' numbers on the same items: the second minus the first, with its interval.

    share_above: the share of draws in which the second is better; ties count half.
    """

    value: float
    interval: Interval
    share_above: float


def difference(
    first: Sequence[Judged],
    second: Sequence[Judged],
    statistic: Statistic,
    seed: int = 0,
    draws: int = DRAWS,
) -> Difference:
    """The paired difference: both models get the same draws. Raises UserError for other items."""
    by_id = {one.item.id: one for one in second}
    if len(first) != len(second) or any(one.item.id not in by_id for one in first):
        raise UserError(
            f"the two models answered other items ({len(first):,} and {len(second):,}); expected "
            "the same benchmark and data"
        )
    paired = [by_id[one.item.id] for one in first]
    ours, theirs = _groups(first), _groups(paired)
    found = np.array(
        [
            statistic(theirs.resampled(counts)) - statistic(ours.resampled(counts))
            for counts in ours.draws(seed, draws)
        ]
    )
    above = float(np.mean(found > 0) + np.mean(found == 0) / 2)
    return Difference(statistic(paired) - statistic(first), _percentiles(found), above)


def interval_over_runs(
    scores: np.ndarray, groups: Sequence[str], seed: int = 0, draws: int = DRAWS
) -> Interval:
    """The percentile interval of the mean score of several training runs on the same items.

    Each draw takes runs with replacement, and groups of items with replacement for all of these
    runs at once, since the runs share the items (Owen 2007, "The pigeonhole bootstrap"). This
    understates the variance between R runs by 1/R. For the paired difference of two models, pass
    the difference of their scores.

    Args:
      scores: float[R, I], of R runs on I items.
      groups: the group of each item.
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(members)
    sums = np.stack([np.bincount(members, weights=run) for run in scores])
    generator = np.random.default_rng(seed)
    runs = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), draws)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    totals = np.einsum("dr,rg,dg->d", runs, sums, drawn)
    return _percentiles(totals / (len(sums) * (drawn @ sizes)))


class _Groups:
    """Judged items by group, with copies under other group names for repeated draws."""

    def __init__(self, members: Sequence[Sequence[Judged]]) -> None:
        self._copies = [[list(group)] for group in members]

    def draws(self, seed: int, count: int) -> Iterator[Counter[int]]:
        """How often each group is drawn: {index of the group: times}."""
        generator = np.random.default_rng(seed)
        total = len(self._copies)
        for _ in range(count):
            yield Counter(generator.integers(total, size=total).tolist())

    def resampled(self, counts: Counter[int]) -> list[Judged]:
        found: list[Judged] = []
        for index in sorted(counts):
            copies = self._copies[index]
            while len(copies) < counts[index]:
                copies.append([_in_group(one, f" copy {len(copies)}") for one in copies[0]])
            for copy in copies[: counts[index]]:
                found += copy
        return found


def _in_group(one: Judged, suffix: str) -> Judged:
    item = dataclasses.replace(one.item, group=_group(one.item) + suffix)
    return dataclasses.replace(one, item=item)


def _group(item: Item) -> str:
    return item.group or f"item {item.id}"


def _groups(judged: Sequence[Judged]) -> _Groups:
    members: dict[str, list[Judged]] = {}
    for one in judged:
        members.setdefault(_group(one.item), []).append(one)
    return _Groups(list(members.values()))


def _percentiles(found: Sequence[float] | np.ndarray) -> Interval:
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Interval(float(low), float(high))
