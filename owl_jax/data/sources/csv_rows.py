"""Reads tables of examples with a header row, delimited by commas, tabs or semicolons.

A row is an image-text pair (caption with image or video), or has the columns of another form of
sources/text_forms.py: question and answer, or text. Quoted cells may contain line breaks.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from owl_jax.data.sources.index import IndexedFile, open_data, skip_bom
from owl_jax.data.sources.media_keys import may_hold_media
from owl_jax.data.sources.record import LARGEST_TEXT, Record
from owl_jax.data.sources.text_forms import LIST_KEYS, is_known_form
from owl_jax.data.sources.values import record_from
from owl_jax.errors import BadData, UserError, shown

_DELIMITERS = (",", "\t", ";")
_ROWS_A_PART = 1 << 16
_PIECE = 1 << 20  # bytes to read at a time while skipping a line

# Maximum characters of a cell: enough for an image of 24 MB as a data URL. Python's limit, 131,072
# by default, is global, so it is set once, here. A limit is needed because an unclosed quote turns
# the rest of the file into one cell.
_LARGEST_CELL = 1 << 25
csv.field_size_limit(max(_LARGEST_CELL, csv.field_size_limit()))


class CsvSource:
    """The records of a table; the first delimiter that gives known columns is used.

    Args:
      path: of the file, in UTF-8. Column names are case-insensitive.
      media_root: base of relative media paths.
      index_dir: where the index of the rows is stored for later runs; None keeps it in memory.

    Raises UserError for a file that is missing, empty, without known columns, or changed while it
    is in use; BadData on access for a row that is not an example.
    """

    def __init__(self, path: Path, media_root: Path, index_dir: Path | None = None):
        self._delimiter, self._columns = _read_header(Path(path))
        scan = partial(scan_rows, delimiter=self._delimiter)
        name = f"rows {self._delimiter}"
        self._file = IndexedFile(path, scan, name, "rows below the header", index_dir)
        self._media_root = Path(media_root)

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, index: int) -> Record:
        where = self.where(index)
        try:
            cells = _parse(self._file.read(index), self._delimiter)
        except UnicodeDecodeError as error:
            raise BadData("invalid UTF-8", f"{where}: not UTF-8 ({error})") from None
        except csv.Error as error:
            raise BadData("malformed record", f"{where}: not a whole row ({error})") from None
        # Spreadsheets leave delimiters after the last cell.
        if len(cells) < len(self._columns) or any(cells[len(self._columns) :]):
            raise BadData(
                "wrong number of fields",
                f"{where}: {len(cells)} fields; the header has {len(self._columns)}",
            )
        row = zip(self._columns, cells, strict=False)
        values = {column: cell for column, cell in row if column not in LIST_KEYS}
        return record_from(values, where, self._media_root)

    def where(self, index: int) -> str:
        """FILE:LINE, the line on which the row begins."""
        return self._file.where(index)

    def num_bytes(self) -> int:
        """Size of the file."""
        return self._file.num_bytes


def scan_rows(file: BinaryIO, delimiter: str) -> Iterator[np.ndarray]:
    """The rows below the header that are not blank: int64[n, 3] as in sources/index.py."""
    rows = _rows(file, delimiter)
    next(rows, None)
    part = []
    for row in rows:
        part.append(row)
        if len(part) == _ROWS_A_PART:
            yield np.array(part)
            part = []
    if part:
        yield np.array(part)


def _rows(file: BinaryIO, delimiter: str) -> Iterator[tuple[int, int, int]]:
    """(start, end, line) of each row that is not blank, beginning with the header.

    A line whose quotes do not match is one broken record, and the next line begins a new row. Each
    byte is read about twice at most, because a second such line closes the first one's quote.
    """
    start, line = skip_bom(file), 1
    broken = True
    while broken:
        broken, first = False, line
        file.seek(start)
        reader = csv.reader(_lines(file), delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                end = file.tell()
                if "".join(cells).strip():
                    yield start, end, line
                start, line = end, first + reader.line_num
        except csv.Error:
            broken = True
            file.seek(start)
            while (piece := file.readline(_PIECE)) and not piece.endswith(b"\n"):
                pass
            end = file.tell()
            yield start, end, line
            start, line = end, line + 1


def _lines(file: BinaryIO) -> Iterator[str]:
    """The remaining lines, as Latin-1. Raises csv.Error for a line that is too long."""
    # Latin-1 decodes any byte, and no byte of a multi-byte UTF-8 character is a quote or delimiter.
    while line := file.readline(LARGEST_TEXT + 1):
        if len(line) > LARGEST_TEXT:
            raise csv.Error("the line is too long")
        yield line.decode("latin-1")


def _parse(data: bytes, delimiter: str) -> list[str]:
    """The cells of a row. Raises UnicodeDecodeError or csv.Error."""
    lines = io.StringIO(data.decode(), newline="\n")
    return next(csv.reader(lines, delimiter=delimiter, strict=True))


def _read_header(path: Path) -> tuple[str, list[str]]:
    """(delimiter, names of the columns in lower case)."""
    most: list[str] = []
    for delimiter in _DELIMITERS:
        with open_data(path) as file:
            start, end, _ = next(_rows(file, delimiter), (0, 0, 0))
            file.seek(start)
            data = file.read(min(end - start, LARGEST_TEXT))
        if not data:
            raise UserError(f"{path}: empty; expected a header and rows below it")
        try:
            columns = [name.strip().lower() for name in _parse(data, delimiter)]
        except (UnicodeDecodeError, csv.Error):
            continue
        if _is_known_form(set(columns)):
            repeated = [name for name, count in Counter(columns).items() if name and count > 1]
            if repeated:
                raise UserError(
                    f"{path}: the header has {shown(repeated[0])} more than once, but only one "
                    "would be read; rename the others"
                )
            return delimiter, columns
        most = max(most, columns, key=len)
    found = f"the columns {', '.join(map(ascii, most))}" if most else "no columns that can be read"
    raise UserError(
        f"{path}: the header has {found}; expected image (or video) and caption, or question and "
        "answer, or text"
    )


def _is_known_form(columns: set[str]) -> bool:
    return is_known_form(columns, any(map(may_hold_media, columns)))
