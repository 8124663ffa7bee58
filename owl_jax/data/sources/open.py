"""From what a config or a command names to a source: by what lies there.

data.jsonl, .ndjson      JSON Lines
data.json                a JSON array, as LLaVA's
pairs.csv, .tsv          rows with a header
data.tar                 WebDataset
data.array_record        ArrayRecord
data.parquet             parquet, by Hugging Face's `datasets`
DIR                      what prepare wrote; save_to_disk of `datasets`; TensorFlow Datasets;
                         files of one of the kinds above; or media with texts beside them
"shards/*.tar"           all that match, in natural order
DIR@SPLIT                one split of a data set that has several
synthetic:KIND=2,KIND    the embedded data set, kinds with weights
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from owl_jax.data.shards.manifest import FORMAT, JOURNAL_FILE, MANIFEST_FILE
from owl_jax.data.sources import hugging_face
from owl_jax.data.sources.array_record import ArrayRecordSource, open_shards
from owl_jax.data.sources.concatenated import ConcatenatedSource
from owl_jax.data.sources.csv_rows import CsvSource
from owl_jax.data.sources.folder import FolderSource
from owl_jax.data.sources.json_array import JsonArraySource
from owl_jax.data.sources.json_lines import JsonLinesSource
from owl_jax.data.sources.record import Source
from owl_jax.data.sources.tar import TarSource
from owl_jax.data.sources.tfds import TfdsSource
from owl_jax.data.synthetic import SyntheticSource
from owl_jax.errors import UserError
from owl_jax.processing.video import natural_key

_UNDERSTOOD = (
    "expected .jsonl, .json, .csv, .tsv, .tar, .array_record or .parquet, a directory of these, of "
    "Hugging Face datasets, of TensorFlow Datasets, of prepare, or of media with texts beside "
    "them, or synthetic:KIND"
)
_FILES: Mapping[str, Callable[[Path, Path, Path | None], Source]] = {
    ".jsonl": JsonLinesSource,
    ".ndjson": JsonLinesSource,
    ".json": JsonArraySource,
    ".csv": CsvSource,
    ".tsv": CsvSource,
}
# What a directory is taken for if it holds such files: the first that it has. (Tars come with
# tables of their own: img2dataset writes 00000.tar beside 00000.parquet.)
_IN_DIRECTORIES = (".tar", ".array_record", ".parquet", ".jsonl", ".ndjson", ".csv", ".tsv")

_SYNTHETIC = "synthetic:"
_SYNTHETIC_SIZE = 100_000


def open_source(spec: str, media_root: str = "", index_dir: Path | None = None) -> Source:
    """The source that `spec` names.

    Args:
      spec: as above.
      media_root: what relative paths of media are relative to; "" is the folder of the file.
      index_dir: where indices and caches are kept for the next time; None keeps indices in memory.

    Raises UserError for what is not there or not understood, and whatever the source raises.
    """
    if spec.startswith(_SYNTHETIC):
        return _open_synthetic(spec)
    paths, split = _find(spec)
    are_directories = {path.is_dir() for path in paths}
    if len(are_directories) > 1:
        raise UserError(f"{spec}: matches files and directories; give a pattern for one kind")
    if are_directories == {False}:
        return _open_files(paths, split, media_root, index_dir)
    opened = [_open_directory(path, split, media_root, index_dir) for path in paths]
    return opened[0] if len(opened) == 1 else ConcatenatedSource(opened)


def is_missing(spec: str) -> bool:
    """Whether nothing lies where `spec` names."""
    if spec.startswith(_SYNTHETIC):
        return False
    try:
        _find(spec)
    except UserError:
        return True
    return False


def _find(spec: str) -> tuple[list[Path], str | None]:
    """(what lies there, the split that is asked for). A file may have "@" or "*" in its name."""
    named, _, split = spec.rpartition("@")
    for pattern, chosen in ((spec, None), (named, split)):
        if pattern and Path(pattern).exists():
            return [Path(pattern)], chosen
        if matches := glob.glob(pattern, recursive=True):  # noqa: PTH207 (that takes no "/...")
            return [Path(match) for match in sorted(matches, key=natural_key)], chosen
    is_pattern = glob.has_magic(spec)
    what = "no file matches" if is_pattern else "no such file or directory"
    raise UserError(f"{spec}: {what}; {_UNDERSTOOD}")


def _open_files(
    paths: Sequence[Path], split: str | None, media_root: str, index_dir: Path | None
) -> Source:
    suffixes = sorted({path.suffix.lower() for path in paths})
    if len(suffixes) > 1:
        raise UserError(
            f"{paths[0].parent}: found {', '.join(suffixes)} files together; give a pattern for "
            "one kind"
        )
    (suffix,) = suffixes
    root = _root(media_root, paths[0].parent)
    if suffix == ".parquet":
        return hugging_face.open_parquet(paths, split, root, index_dir)
    if split is not None:
        raise UserError(f"{paths[0]} has no splits; leave @{split} out")
    if suffix == ".tar":
        return TarSource(paths, root, index_dir)
    if suffix == ".array_record":
        return ArrayRecordSource(paths, root)
    if suffix not in _FILES:
        found = f"a file {suffix}" if suffix else "a file without suffix"
        raise UserError(f"{paths[0]}: found {found}; {_UNDERSTOOD}")
    make = _FILES[suffix]
    opened = [make(path, _root(media_root, path.parent), index_dir) for path in paths]
    return opened[0] if len(opened) == 1 else ConcatenatedSource(opened)


def _open_directory(
    path: Path, split: str | None, media_root: str, index_dir: Path | None
) -> Source:
    root = _root(media_root, path)
    names = {entry.name for entry in path.iterdir()}
    if names & {"dataset_dict.json", "state.json"}:
        return hugging_face.open_saved(path, split, root)
    if {"dataset_info.json", "features.json"} <= names:
        return TfdsSource(path, split or "train", root)
    files = _files_in(path)
    if files and files[0].suffix == ".parquet":
        return hugging_face.open_parquet(files, split, root, index_dir)
    if split is not None:
        raise UserError(f"{path} has no splits; leave @{split} out")
    if JOURNAL_FILE in names or _is_ours(path / MANIFEST_FILE):
        return open_shards(path)
    if files:
        return _open_files(files, None, media_root, index_dir)
    return FolderSource(path, root)


def _files_in(directory: Path) -> list[Path]:
    """The files of the first kind that the directory has, in natural order."""
    for suffix in _IN_DIRECTORIES:
        # The hub keeps tables in a folder "data".
        pattern = f"**/*{suffix}" if suffix == ".parquet" else f"*{suffix}"
        found = [path for path in directory.glob(pattern) if not path.name.startswith(".")]
        if found:
            return sorted(found, key=lambda path: natural_key(str(path)))
    return []


def _is_ours(manifest: Path) -> bool:
    """Whether a manifest is prepare's, of whatever version."""
    return manifest.is_file() and f'"{FORMAT}"' in manifest.read_text("utf-8", "replace")


def _root(media_root: str, folder: Path) -> Path:
    return Path(media_root) if media_root else folder


def _open_synthetic(spec: str) -> SyntheticSource:
    kinds: dict[str, float] = {}
    for part in spec.removeprefix(_SYNTHETIC).split(","):
        kind, _, weight = part.partition("=")
        try:
            kinds[kind.strip()] = float(weight or 1)
        except ValueError:
            raise UserError(
                f"{spec}: {weight!r} is no number; expected {_SYNTHETIC}KIND=WEIGHT,KIND=WEIGHT"
            ) from None
    return SyntheticSource(kinds, size=_SYNTHETIC_SIZE)
