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
        number = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[number - 1]) if number else 0
        return self._sources[number][index - before]
