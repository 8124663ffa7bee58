"""Mixes sources into one endless stream of records, in exact shares and seeded order (Grain)."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import grain

from owl_jax.data.drops import Dropped
from owl_jax.data.sources.record import Record, Source
from owl_jax.errors import BadData, UserError

_EPOCHS = re.compile(r"\s*([0-9.]+)\s*epochs?\s*")


@dataclass(frozen=True)
class WeightedSource:
    """A source and its share of the mixture.

    weight: a positive number on any scale, or "2 epochs", a weight of twice its number of records.
    Either all sources of a mixture give epochs, or none does.
    """

    source: Source
    weight: float | str


def mix(
    sources: Sequence[WeightedSource], seed: int, shard_index: int = 0, num_shards: int = 1
) -> grain.MapDataset[Record | Dropped]:
    """The endless mixture: element i depends only on i and the arguments.

    Each source repeats and is reshuffled in each epoch. An unreadable record becomes a Dropped.

    Args:
      shard_index, num_shards: each process mixes every `num_shards`-th record of every source, in
        the same shares. (The mixture itself cannot be sharded: its order is periodic, so a process
        might get the records of one source only.)

    Raises UserError for no source or invalid weights.
    """
    datasets = [
        grain.MapDataset.source(_Guarded(item.source)).seed(seed + i).shuffle().repeat()
        for i, item in enumerate(sources)
    ]
    sharded = [dataset[shard_index::num_shards] for dataset in datasets]
    return grain.MapDataset.select_from_datasets(sharded, _Order(shares(sources)))


def shares(sources: Sequence[WeightedSource]) -> list[Fraction]:
    """Each source's share of the records; the sum is 1. Raises UserError as `mix` does."""
    if not sources:
        raise UserError("no data: set config.data.mixture")
    weights = [item.weight for item in sources]
    in_epochs = [_EPOCHS.fullmatch(w) if isinstance(w, str) else None for w in weights]
    if any(in_epochs) and not all(in_epochs):
        raise UserError(
            f"config.data.mixture has the weights {weights}: give all of them in epochs, or none"
        )
    try:
        # Through str, so that 0.3 is exactly three tenths.
        ratios = [
            Fraction(match[1]) * len(item.source) if match else Fraction(str(item.weight))
            for match, item in zip(in_epochs, sources, strict=True)
        ]
    except (ValueError, TypeError):
        ratios = [Fraction(0)]
    if not all(ratio > 0 for ratio in ratios):
        raise UserError(
            f'config.data.mixture has the weights {weights}; expected numbers above 0, or "2 '
            'epochs" for each source'
        )
    return [ratio / sum(ratios) for ratio in ratios]


def records_of_an_epoch(sources: Sequence[WeightedSource]) -> int:
    """How many records of the mixture it takes to see every record of every source."""
    pairs = zip(sources, shares(sources), strict=True)
    return max(math.ceil(len(item.source) / share) for item, share in pairs)


class _Order(grain.transforms.DatasetSelectionMap):
    """Maps the index of a record in the mixture to (source, index in the source).

    After any number of records, the first source is within one record of its exact share, the
    second within one record of its share of the rest, and so on. (Grain's own `mix` rounds weights
    to hundredths of the smallest.)
    """

    def __init__(self, ratios: Sequence[Fraction]):
        scale = math.lcm(*(ratio.denominator for ratio in ratios))
        self._weights = [int(ratio * scale) for ratio in ratios]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[int, int]:
        total = sum(self._weights)
        for source, weight in enumerate(self._weights):
            earlier = -(-index * weight // total)  # of the first `index` records, rounded up
            if -(-(index + 1) * weight // total) > earlier:
                return source, earlier
            index, total = index - earlier, total - weight
        raise AssertionError("the last source takes every record that is left")


class _Guarded:
    """A source that returns Dropped for unreadable records instead of raising."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record | Dropped:
        try:
            return self._source[index]
        except BadData as error:
            return Dropped.of(error, self._source.where(index))
