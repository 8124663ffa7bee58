"""Concatenates sources, such as the files of a pattern."""

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
        source, number = self._find(index)
        return source[number]

    def where(self, index: int) -> str:
        """The name that the record's own source gives."""
        source, number = self._find(index)
        return source.where(number)

    def num_bytes(self) -> int:
        """Total size of all sources."""
        return sum(source.num_bytes() for source in self._sources)

    def _find(self, index: int) -> tuple[Source, int]:
        """(source of a record, the record's index in that source)."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[number - 1]) if number else 0
        return self._sources[number], index - before
