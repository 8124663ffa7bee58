"""Shares that are exact, epochs that hold each record once, an order that is the seed's alone."""

import itertools
from collections import Counter
from fractions import Fraction

import pytest

from owl_jax.data.drops import Dropped
from owl_jax.data.mixture import WeightedSource, mix, records_of_an_epoch, shares
from owl_jax.errors import BadData, UserError


class Source:
    """Records that are numbers; those in `bad` cannot be read."""

    def __init__(self, numbers, bad=()):
        self.numbers, self.bad = list(numbers), set(bad)

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        if self.numbers[index] in self.bad:
            raise BadData("not an example", f"{self.where(index)}: nonsense")
        return self.numbers[index]

    def where(self, index):
        return f"list:{self.numbers[index]}"


def weighted(*pairs):
    return [WeightedSource(Source(numbers), weight) for numbers, weight in pairs]


def take(sources, count, seed=1):
    dataset = mix(sources, seed)
    return [dataset[i] for i in range(count)]


@pytest.mark.parametrize(
    ("weights", "count", "expected"),
    [
        ((1, 3), 40, (10, 30)),
        ((0.3, 0.7), 40, (12, 28)),
        ((2, 2, 4), 40, (10, 10, 20)),
        ((1 / 3, 2 / 3), 60, (20, 40)),
        ((200, 1), 402, (400, 2)),
        ((0.123, 1), 2246, (246, 2000)),
        (("1 epoch", "1 epoch"), 40, (20, 20)),
        (("1 epoch", "0.5 epochs", "1.5 epochs"), 60, (20, 10, 30)),
    ],
)
def test_shares_are_exact(weights, count, expected):
    sources = weighted(
        *((range(1000 * i, 1000 * i + 999), weight) for i, weight in enumerate(weights, start=1))
    )
    found = Counter(number // 1000 for number in take(sources, count))
    assert tuple(found[i] for i in range(1, len(weights) + 1)) == expected


def test_shares_are_kept_at_every_point():
    """The paper's mixture of stage 2: never more than a record of a share away."""
    weights = 102, 90, 50, 150
    sources = weighted(*((range(1000 * i, 1000 * i + 999), w) for i, w in enumerate(weights)))
    found = Counter()
    for count, number in enumerate(take(sources, 3000), start=1):
        found[number // 1000] += 1
        for i, weight in enumerate(weights):
            assert abs(found[i] - count * weight / 392) < 3


def test_weights_in_epochs_follow_the_number_of_records():
    sources = weighted((range(30), "1 epoch"), (range(10), "2 epochs"))
    assert shares(sources) == [Fraction(3, 5), Fraction(2, 5)]
    assert records_of_an_epoch(sources) == 50
    numbers = take(weighted((range(30), "1 epoch"), (range(100, 110), "2 epochs")), 50)
    assert Counter(numbers) == {**dict.fromkeys(range(30), 1), **dict.fromkeys(range(100, 110), 2)}


def test_an_epoch_shows_every_record_of_every_source():
    sources = weighted((range(7), 1), (range(100, 140), 2))
    count = records_of_an_epoch(sources)
    assert count == 60
    assert set(take(sources, count)) == {*range(7), *range(100, 140)}


def test_every_epoch_holds_each_record_once_in_a_new_order():
    numbers = take(weighted((range(24), 1)), 72)
    epochs = [numbers[:24], numbers[24:48], numbers[48:]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(24))] * 3
    for one, other in itertools.combinations([list(range(24)), *epochs], 2):
        assert one != other


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 1, 1, 1), (102, 90, 50, 150)])
@pytest.mark.parametrize("num_shards", [2, 4, 16])
def test_each_process_has_the_shares_of_the_mixture(weights, num_shards):
    sources = weighted(*((range(1000 * i, 1000 * i + 200), w) for i, w in enumerate(weights)))
    for shard_index in range(num_shards):
        dataset = mix(sources, 1, shard_index, num_shards)
        found = Counter(dataset[i] // 1000 for i in range(784))
        for i, weight in enumerate(weights):
            assert abs(found[i] - 784 * weight / sum(weights)) < 3


def test_processes_together_see_each_record_of_an_epoch_once():
    sources = weighted((range(90), 1), (range(100, 190), 1))
    shards = [mix(sources, 1, index, 3) for index in range(3)]
    found = [shard[i] for shard in shards for i in range(60)]
    assert sorted(found) == [*range(90), *range(100, 190)]


def test_the_seed_alone_decides_the_order():
    sources = weighted((range(50), 1), (range(100, 150), 2))
    assert take(sources, 90) == take(sources, 90)
    assert take(sources, 90) != take(sources, 90, seed=2)


def test_two_sources_of_a_seed_are_shuffled_differently():
    numbers = take(weighted((range(24), 1), (range(100, 124), 1)), 48)
    first, second = ([n % 100 for n in numbers if n // 100 == i] for i in (0, 1))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second


def test_a_record_that_cannot_be_read_is_dropped_in_its_place():
    good = take([WeightedSource(Source(range(9)), 1)], 9)
    mixed = take([WeightedSource(Source(range(9), bad=[4]), 1)], 9)
    expected = Dropped("list:4", "not an example", "list:4: nonsense")
    assert mixed == [expected if number == 4 else number for number in good]


def test_no_data_and_wrong_weights_are_named():
    with pytest.raises(UserError, match=r"no data: set config\.data\.mixture"):
        mix([], 0)
    for weight in (0, -1, float("nan"), float("inf"), "0 epochs", "many", "1 step", None):
        with pytest.raises(UserError, match="weights"):
            mix(weighted((range(3), weight)), 0)
    with pytest.raises(UserError, match="all of them in epochs, or none"):
        mix(weighted((range(3), "1 epoch"), (range(3), 2.0)), 0)
