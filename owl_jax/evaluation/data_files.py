"""Reads the files of benchmarks, with one clear line for what is not one of them."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, listed, shown
from owl_jax.files import open_regular

Record = dict[str, Any]


def find(data: Path, *names: str) -> Path:
    """The file of this name: `data` itself, or the first of `names` that is in the folder `data`.

    Raises UserError if there is none.
    """
    if data.is_file():
        return data
    for name in names:
        found = sorted(data.glob(name))
        if found:
            return found[0]
    what = "is not a folder" if not data.exists() else f"has {listed(_names(data)) or 'no file'}"
    raise UserError(f"--data={data} {what}; expected {' or '.join(names)} in it")


def read_json(path: Path) -> Any:
    """The JSON value of a file. Raises UserError."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def read_json_lines(path: Path, keys: Sequence[str]) -> list[Record]:
    """The objects of a JSON Lines file, one a line, each with all the keys. Raises UserError."""
    records = []
    for number, line in enumerate(io.StringIO(read_text(path)), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is not JSON: {error}") from None
        records.append(checked(record, keys, f"{path}: line {number}"))
    if not records:
        raise UserError(f"{path} is empty; expected objects with {', '.join(keys)}, one a line")
    return records


def read_tsv(path: Path, columns: Sequence[str]) -> list[Record]:
    """The rows of a file with a header and tabs between columns, as texts. Raises UserError."""
    csv.field_size_limit(sys.maxsize)
    text = io.StringIO(read_text(path), newline="")
    try:
        rows = list(csv.DictReader(text, delimiter="\t"))
    except csv.Error as error:
        raise UserError(f"{path}: {error}") from None
    if not rows:
        raise UserError(f"{path} has no rows; expected columns {', '.join(columns)}")
    checked(rows[0], columns, str(path), "columns")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UserError(f"{path}: line {number} has another number of columns than the header")
    return rows


def read_parquet(path: Path, columns: Sequence[str]) -> list[Record]:
    """The rows of a parquet file. Raises UserError; needs the package pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path}: reading parquet needs pyarrow; install it: pip install "
            "--editable '.[evaluate]'"
        ) from None
    try:
        with open_regular(path) as file:
            rows: list[Record] = pyarrow.parquet.read_table(file).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is not a parquet file: {str(error).splitlines()[0]}") from None
    if not rows:
        raise UserError(f"{path} has no rows; expected columns {', '.join(columns)}")
    checked(rows[0], columns, str(path), "columns")
    return rows


def checked(value: Any, keys: Iterable[str], where: str, noun: str = "keys") -> Record:
    """`value` if it is an object with all the keys. Raises UserError, which begins with `where`."""
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: found {shown(value)}; expected an object")
    expected = list(keys)
    if any(key not in value for key in expected):
        raise UserError(
            f"{where}: found the {noun} {listed(value)}; expected {', '.join(expected)}"
        )
    return dict(value)


def from_base64(text: str, where: str) -> bytes:
    """The bytes of a picture in a table. Raises UserError, which begins with `where`."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise UserError(f"{where}: the picture is not base64: {error}") from None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises UserError."""
    try:
        with open_regular(path) as file:
            return file.read().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from None


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
