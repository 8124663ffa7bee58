"""Reads JSON Lines: one example a line, in any of the forms of sources/values.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from owl_jax.data.sources.index import IndexedFile, skip_bom
from owl_jax.data.sources.record import Record
from owl_jax.data.sources.values import record_from_json

_CHUNK = 1 << 20  # bytes


class JsonLinesSource:
    """The records of a file with one JSON object a line; blank lines are skipped.

    Args:
      path: of the file, in UTF-8.
      media_root: base of relative media paths.
      index_dir: where the index of the lines is stored for later runs; None keeps it in memory.

    Raises UserError for a file that is missing, empty or changed while it is in use, and BadData on
    access for a line that is not an example.
    """

    def __init__(self, path: Path, media_root: Path, index_dir: Path | None = None):
        self._file = self._indexed(path, index_dir)
        self._media_root = Path(media_root)

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, index: int) -> Record:
        return record_from_json(self._file.read(index), self.where(index), self._media_root)

    def where(self, index: int) -> str:
        """FILE:LINE, or FILE:LINE[NUMBER] if several records begin on the line."""
        return self._file.where(index)

    def num_bytes(self) -> int:
        """Size of the file."""
        return self._file.num_bytes

    @staticmethod
    def _indexed(path: Path, index_dir: Path | None) -> IndexedFile:
        return IndexedFile(path, scan_lines, "lines", "one JSON object a line", index_dir)


def scan_lines(file: BinaryIO, chunk_size: int = _CHUNK) -> Iterator[np.ndarray]:
    """The lines that are not blank, without line breaks: int64[n, 3] as in sources/index.py."""
    position = start = skip_bom(file)
    line, blank = 1, True  # number of the line at `start`, and whether it is blank so far
    while chunk := file.read(chunk_size):
        values = np.frombuffer(chunk, np.uint8)
        breaks = np.flatnonzero(values == ord("\n"))
        # The lines in the chunk; the first may have begun before the chunk, the last is unfinished.
        starts, ends = np.append(0, breaks + 1), np.append(breaks, len(chunk))
        filled = values[np.minimum(starts, len(chunk) - 1)] > ord(" ")
        for i in np.flatnonzero(~filled & (starts < ends)):
            filled[i] = bool(chunk[starts[i] : ends[i]].strip())
        filled[0] |= not blank
        lines = np.arange(line, line + len(starts))
        rows = np.stack([starts + position, ends + position, lines], axis=1)
        rows[0, 0] = start
        yield rows[:-1][filled[:-1]]
        (start, position, line), blank = rows[-1].tolist(), not filled[-1]
    if not blank:
        yield np.array([[start, position, line]])
