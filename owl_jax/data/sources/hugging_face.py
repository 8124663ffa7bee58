"""Reads Hugging Face `datasets`: output of save_to_disk, and parquet files.

A row's columns are the values of sources/values.py. Rows are read as Arrow from memory-mapped
files, without decoding images. Parquet has no random access to rows, so it is converted once to an
Arrow file in the index directory.

`datasets` is an optional dependency: pip install 'owl_jax[data]'.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from owl_jax.data.sources.record import Record, check_size
from owl_jax.data.sources.values import record_from
from owl_jax.errors import BadData, UserError, one_line
from owl_jax.files import check_regular

# How the hub names the files of a split: train-00000-of-00002.parquet.
_SPLIT_NAME = re.compile(r"(.+)-\d{5}-of-\d{5}\.parquet")


@dataclass
class HuggingFaceSource:
    """The rows of a `datasets.Dataset`, in order.

    Args:
      dataset: its columns have one of the forms of sources/values.py.
      name: for messages.
      media_root: base of relative paths in the columns.
    """

    dataset: Any
    name: str
    media_root: Path
    # Deletes the dataset's temporary files once this source is garbage-collected.
    _files: tempfile.TemporaryDirectory | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if len(self.dataset) == 0:
            raise UserError(f"{self.name}: no rows")
        self.dataset = self.dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Record:
        where = self.where(index)
        try:
            row = self.dataset[int(index)]
            # Binary columns, with the bytes of media, are not parsed.
            parsed = (column for column in row.columns if "binary" not in str(column.type))
            check_size(sum(column.nbytes for column in parsed), where)
            (values,) = row.to_pylist()
        except (ValueError, OSError) as error:  # Arrow's errors for a damaged file
            raise BadData("damaged record", f"{where}: {one_line(error)}") from None
        return record_from(values, where, self.media_root)

    def where(self, index: int) -> str:
        """NAME:NUMBER, counted from 0."""
        return f"{self.name}:{index}"

    def num_bytes(self) -> int:
        """Size of the columns in Arrow."""
        return int(self.dataset.data.nbytes)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None}


def open_saved(directory: Path, split: str | None, media_root: Path) -> HuggingFaceSource:
    """The rows of a directory that Dataset.save_to_disk or DatasetDict.save_to_disk wrote.

    Args:
      split: of a DatasetDict; None means "train", or the only split.

    Raises UserError if the directory is incomplete, the split does not exist, or `datasets` is not
    installed.
    """
    datasets = _import_datasets(directory)
    name = str(directory)
    listed = directory / "dataset_dict.json"
    if split is not None and not listed.is_file():
        raise UserError(f"{directory} has no splits; remove @{split}")
    try:
        if listed.is_file():
            splits = json.loads(listed.read_text("utf-8"))["splits"]
            split = choose_split(split, splits, directory)
            directory, name = directory / split, f"{name}@{split}"
        dataset = datasets.load_from_disk(str(directory))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{directory}: cannot be read ({one_line(error)})") from None
    return HuggingFaceSource(dataset, name, media_root)


def open_parquet(
    paths: Sequence[Path], split: str | None, media_root: Path, index_dir: Path | None = None
) -> HuggingFaceSource:
    """The rows of parquet files, one file after another.

    Args:
      split: for files named by splits, as on Hugging Face's hub; None means "train", or the only
        split.
      index_dir: where the rows are stored as Arrow, for later runs too; None means a temporary
        directory that is deleted with the source.

    Raises UserError for a file that is not parquet, files with different columns, a split that does
    not exist, or if `datasets` is not installed.
    """
    datasets = _import_datasets(paths[0])
    paths = _checked(files_of_split(paths, split))
    temporary = None
    if index_dir is None:
        temporary = tempfile.TemporaryDirectory(prefix="owl_jax-")
        index_dir = Path(temporary.name)
    try:
        with _without_bars(datasets):
            dataset = datasets.Dataset.from_parquet(
                [str(path) for path in paths], cache_dir=str(index_dir)
            )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        why = one_line(error.__cause__ or error)
        raise UserError(f"{paths[0]}: cannot be written as Arrow in {index_dir} ({why})") from None
    name = str(paths[0] if len(paths) == 1 else paths[0].parent)
    return HuggingFaceSource(dataset, name, media_root, temporary)


def choose_split(split: str | None, splits: Sequence[str], directory: Path) -> str:
    """The requested split; by default "train" or the only one.

    Raises UserError if it does not exist.
    """
    if split is None and len(splits) == 1:
        return splits[0]
    chosen = split or "train"
    if chosen not in splits:
        raise UserError(
            f"{directory} has the splits {', '.join(splits)}, not {chosen}; choose one with "
            f"{directory}@SPLIT"
        )
    return chosen


def files_of_split(paths: Sequence[Path], split: str | None) -> Sequence[Path]:
    """The parquet files of a split, by their names; all files if their names tell no split.

    Raises UserError as `choose_split` does, and for a split that no name tells.
    """
    matches = [_SPLIT_NAME.fullmatch(path.name) for path in paths]
    names = [match[1] for match in matches if match]
    if len(names) < len(paths):
        if split is not None:
            raise UserError(f"{paths[0]} is not named by its split; remove @{split}")
        return paths
    chosen = choose_split(split, sorted(set(names)), paths[0].parent)
    return [path for path, name in zip(paths, names, strict=True) if name == chosen]


def _checked(paths: Sequence[Path]) -> list[Path]:
    """The files that have rows. Raises UserError if one is not parquet or its columns differ."""
    import pyarrow.parquet

    checked: list[Path] = []
    first: list[str] = []
    for path in paths:
        try:
            check_regular(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        try:
            metadata = pyarrow.parquet.read_metadata(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a parquet file, or cut short ({error})") from None
        columns = metadata.schema.to_arrow_schema().names
        first = first or columns
        if columns != first:
            raise UserError(
                f"{path} has the columns {', '.join(columns)}, {paths[0]} has {', '.join(first)}; "
                "expected the same columns in all files"
            )
        if metadata.num_rows:
            checked.append(path)
    if not checked:
        raise UserError(f"{paths[0]}: no rows")
    return checked


def _import_datasets(path: Path) -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{path}: needs the package datasets; pip install 'owl_jax[data]'"
        ) from None
    return datasets


@contextmanager
def _without_bars(datasets: ModuleType) -> Iterator[None]:
    """Turns off the library's progress bars, a global setting, inside the block."""
    were_on = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_on:
            datasets.enable_progress_bars()
