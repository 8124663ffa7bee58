"""Several sources as one, one after another: the files of a pattern."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from owl_jax.data.sources.record import Record, Source


class ConcatenatedSource:
    """The records of the first source, then those of the second, and so on."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = sources
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        source, place = self._find(index)
        return source[place]

    def where(self, index: int) -> str:
        """As the source calls it that has the record."""
        source, place = self._find(index)
        return source.where(place)

    def num_bytes(self) -> int:
        """Of all sources."""
        return sum(source.num_bytes() for source in self._sources)

    def _find(self, index: int) -> tuple[Source, int]:
        """The source that has a record, and the record's number in it."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[number - 1]) if number else 0
        return self._sources[number], index - before
