"""Several sources as one endless stream of records, in exact shares and a seeded order (Grain)."""

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

    weight: any positive scale; or "2 epochs" (for all sources, if for one), which is twice the
    number of its records.
    """

    source: Source
    weight: float | str


def mix(
    sources: Sequence[WeightedSource], seed: int, part: int = 0, parts: int = 1
) -> grain.MapDataset[Record | Dropped]:
    """The endless mixture: element i depends on the arguments and i alone.

    Every source is shuffled anew in each of its epochs and begins again when it is used up. A
    record that its source cannot read is Dropped.

    Args:
      part, parts: of several processes, each mixes every `parts`-th record of every source, in the
        same shares. (Every `parts`-th record of the mixture would not do: its order is periodic,
        and a process might get the records of one source alone.)

    Raises UserError for no source, or weights that make no sense.
    """
    datasets = [
        grain.MapDataset.source(_Guarded(item.source)).seed(seed + i).shuffle().repeat()
        for i, item in enumerate(sources)
    ]
    own = [dataset[part::parts] for dataset in datasets]
    return grain.MapDataset.select_from_datasets(own, _Order(shares(sources)))


def shares(sources: Sequence[WeightedSource]) -> list[Fraction]:
    """Each source's share of the records; their sum is 1. Raises UserError as `mix`."""
    if not sources:
        raise UserError("no data: set config.data.mixture")
    weights = [item.weight for item in sources]
    in_epochs = [_EPOCHS.fullmatch(w) if isinstance(w, str) else None for w in weights]
    if any(in_epochs) and not all(in_epochs):
        raise UserError(
            f"config.data.mixture has the weights {weights}: give all of them in epochs, or none"
        )
    try:
        # As it is written: 0.3 is three tenths.
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
    """How many records of the mixture it takes until every record of every source has come."""
    parts = zip(sources, shares(sources), strict=True)
    return max(math.ceil(len(item.source) / share) for item, share in parts)


class _Order(grain.transforms.DatasetSelectionMap):
    """Which source each record of the mixture comes from, and which of its records that is.

    At any point the first source is within one record of its share, the second within one of its
    share of what the first leaves, and so on. (Grain's own `mix` rounds weights to hundredths of
    the smallest.)
    """

    def __init__(self, ratios: Sequence[Fraction]):
        scale = math.lcm(*(ratio.denominator for ratio in ratios))
        self._weights = [int(ratio * scale) for ratio in ratios]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[int, int]:
        total = sum(self._weights)
        for source, weight in enumerate(self._weights):
            own = -(-index * weight // total)  # of the first `index` records, rounded up
            if -(-(index + 1) * weight // total) > own:
                return source, own
            index, total = index - own, total - weight
        raise AssertionError("the last source takes what the others leave")


class _Guarded:
    """A source whose unreadable records are Dropped instead of exceptions."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record | Dropped:
        try:
            return self._source[index]
        except BadData as error:
            return Dropped.of(error, self._source.where(index))
