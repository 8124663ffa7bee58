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

_LONGEST_INDEX = 64  # characters; a longer text in a column of pictures is a picture


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


def find_only(data: Path, *names: str) -> Path:
    """As `find`; raises UserError if the folder has several files of the name that it has."""
    found = find(data, *names)
    same = [] if data.is_file() else next(filter(None, (sorted(data.glob(n)) for n in names)), [])
    if len(same) > 1:
        raise UserError(
            f"--data={data} has {listed(path.name for path in same)}; expected one of them: give "
            "--data=FILE, or a folder for each"
        )
    return found


def read_json(path: Path) -> Any:
    """The JSON value of a file. Raises UserError."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def read_json_lines(path: Path, keys: Sequence[str]) -> list[Record]:
    """The objects of a JSON Lines file, one a line, each with all the keys. Raises UserError."""
    return [record for _, record in numbered_json_lines(path, keys)]


def numbered_json_lines(path: Path, keys: Sequence[str]) -> list[tuple[int, Record]]:
    """As `read_json_lines`, with the number of each line."""
    records = []
    for number, line in enumerate(io.StringIO(read_text(path)), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is not JSON: {error}") from None
        records.append((number, checked(record, keys, f"{path}: line {number}")))
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
            f"{path}: reading parquet needs pyarrow; install it: pip install 'owl_jax[evaluate]'"
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


def read_json_records(path: Path, keys: Sequence[str]) -> list[Record]:
    """The objects of a JSON array, each with all the keys. Raises UserError."""
    values = read_json(path)
    if not isinstance(values, list) or not values:
        raise UserError(
            f"{path}: found {shown(values)}; expected a list of objects with {', '.join(keys)}"
        )
    return [
        checked(value, keys, f"{path}: entry {number}") for number, value in enumerate(values, 1)
    ]


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


def check_texts(record: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    """Raises UserError, which begins with `where`, unless the values of all the keys are texts."""
    for key in keys:
        if not isinstance(record[key], str):
            raise UserError(f"{where}: {key} is {shown(record[key])}; expected a text")


def check_ids(record: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    """Raises UserError, which begins with `where`, unless the values are texts or whole numbers."""
    for key in keys:
        if not isinstance(record[key], str | int):
            raise UserError(f"{where}: {key} is {shown(record[key])}; expected a number or a text")


def checked_list(record: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """A list that is not empty. Raises UserError, which begins with `where`, for anything else."""
    values = record[key]
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}: {key} is {shown(values)}; expected a list that is not empty")
    return values


def list_of_texts(record: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The texts of a list. Raises UserError, which begins with `where`, for anything else."""
    values = record[key]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: {key} is {shown(values)}; expected a list of texts")
    return tuple(values)


def picture_bytes(value: Any, where: str) -> bytes:
    """A picture in a row of parquet: bytes, or {"bytes", "path"}. Raises UserError."""
    found = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(found, bytes):
        raise UserError(f"{where}: the picture is {shown(value)}; expected its bytes")
    return found


def from_base64(text: str, where: str) -> bytes:
    """The bytes of a picture in a table. Raises UserError, which begins with `where`."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise UserError(f"{where}: the picture is not base64: {error}") from None


def table_pictures(rows: Sequence[Record], path: Path) -> list[bytes | None]:
    """The pictures of a table with the columns index and image (base64); None where there is none.

    In the tables of VLMEvalKit a text of at most 64 characters is the index of the row that has the
    picture. Raises UserError.
    """
    decoded = {
        row["index"]: from_base64(row["image"], f"{path}: index {row['index']}")
        for row in rows
        if len(row["image"]) > _LONGEST_INDEX
    }
    pictures = []
    for row in rows:
        name = row["image"] if len(row["image"]) <= _LONGEST_INDEX else row["index"]
        if name and name not in decoded:
            raise UserError(
                f"{path}: index {row['index']} has the image {shown(name)}; expected base64 or the "
                "index of a row with a picture"
            )
        pictures.append(decoded.get(name))
    return pictures


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
