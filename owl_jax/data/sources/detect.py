"""Opens the source that a config or a command names; the kind is detected from the path.

data.jsonl, .ndjson      JSON Lines
data.json                a JSON array, as in LLaVA, or JSON Lines
pairs.csv, .tsv          rows with a header
data.tar                 WebDataset
data.array_record        ArrayRecord
data.parquet             parquet, by Hugging Face's `datasets`
DIR                      output of prepare; save_to_disk of `datasets`; TensorFlow Datasets;
                         files of one of the kinds above (sources/kinds.py); or media with text
                         files of the same names
"shards/*.tar"           all that match, in natural order
DIR@SPLIT                one split of a data set that has several
FILE.py[:ARGUMENT]       a custom source (sources/custom.py)
hf://datasets/ORG/NAME[@REVISION][/PATH]   any of these but the last on Hugging Face's hub
                         (sources/hub_data.py)
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from owl_jax.data.shards.journal import is_begun
from owl_jax.data.shards.manifest import is_finished
from owl_jax.data.sources import hugging_face
from owl_jax.data.sources.array_record import ArrayRecordSource, open_shards
from owl_jax.data.sources.concatenated import ConcatenatedSource
from owl_jax.data.sources.csv_rows import CsvSource
from owl_jax.data.sources.custom import CustomRecords, CustomSource, load_custom, python_file
from owl_jax.data.sources.folder import FolderSource
from owl_jax.data.sources.hub_data import is_on_hub, local_source
from owl_jax.data.sources.json_array import JsonArraySource
from owl_jax.data.sources.json_lines import JsonLinesSource
from owl_jax.data.sources.kinds import files_of_one_kind, is_json_lines, kind_of
from owl_jax.data.sources.record import Source
from owl_jax.data.sources.tar import TarSource
from owl_jax.data.sources.tfds import TfdsSource
from owl_jax.errors import UserError
from owl_jax.files import check_regular
from owl_jax.hub.names import PROTOCOL, parse_name
from owl_jax.media.video import natural_key

_UNDERSTOOD = (
    "expected .jsonl, .json, .csv, .tsv, .tar, .array_record or .parquet, a directory of these, of "
    "Hugging Face datasets, of TensorFlow Datasets, of prepare, or of media with texts beside "
    "them, or a .py file with get_source()"
)
_READ_BY_LIBRARIES = {"dataset_dict.json", "state.json", "features.json"}
_OLD_PREFIX = "synthetic:"  # the demonstration's data set, before it was a file


def open_source(
    spec: str | CustomSource, media_root: str = "", index_dir: Path | None = None
) -> Source:
    """Opens a source.

    Args:
      spec: a path as listed above, or a CustomSource.
      media_root: base of relative media paths; "" means the folder of the file, or the working
        directory for a CustomSource.
      index_dir: where indices and caches are stored for later runs; None keeps indices in memory.

    Raises UserError for a path that does not exist or an unknown kind, and whatever the source
    raises.
    """
    if isinstance(spec, CustomSource):
        return CustomRecords(spec, Path(media_root))
    _check_spelling(spec)
    spec, media_root = local_source(spec, media_root)
    if python := python_file(spec):
        path, argument = python
        return CustomRecords(load_custom(path, argument), _root(media_root, path.parent))
    paths, split = _find(spec)
    are_directories = {path.is_dir() for path in paths}
    if len(are_directories) > 1:
        raise UserError(f"{spec}: matches files and directories; give a pattern for one kind")
    if are_directories == {False}:
        return _open_files(paths, split, media_root, index_dir)
    opened = [_open_directory(path, split, media_root, index_dir) for path in paths]
    return opened[0] if len(opened) == 1 else ConcatenatedSource(opened)


def is_missing(spec: str | CustomSource) -> bool:
    """Whether the path does not exist; what is on the hub counts as there.

    Raises UserError for a wrong spelling.
    """
    if isinstance(spec, CustomSource) or is_on_hub(spec) or python_file(spec):
        return False
    _check_spelling(spec)
    try:
        _find(spec)
    except UserError:
        return True
    return False


def _check_spelling(spec: str) -> None:
    if spec.startswith(_OLD_PREFIX):
        kinds = spec.removeprefix(_OLD_PREFIX)
        raise UserError(
            f"{spec}: the embedded data set is now a file; write configs/demo/synthetic.py:{kinds}"
        )


def _find(spec: str) -> tuple[list[Path], str | None]:
    """(paths that match, requested split). A file may have "@" or "*" in its name."""
    named, _, split = spec.rpartition("@")
    for pattern, chosen in ((spec, None), (named, split)):
        if pattern and _exists(Path(pattern)):
            return [Path(pattern)], chosen
        # Path.glob refuses absolute patterns.
        if matches := glob.glob(pattern, recursive=True):  # noqa: PTH207
            return [Path(match) for match in sorted(matches, key=natural_key)], chosen
    is_pattern = glob.has_magic(spec)
    what = "no file matches" if is_pattern else "no such file or directory"
    if parse_name(spec):
        what += f" (of the hub's data sets, {PROTOCOL}datasets/{spec})"
    raise UserError(f"{spec}: {what}; {_UNDERSTOOD}")


def _open_files(
    paths: Sequence[Path], split: str | None, media_root: str, index_dir: Path | None
) -> Source:
    kinds = {kind_of(path) for path in paths}
    if len(kinds) > 1:
        suffixes = sorted({path.suffix.lower() for path in paths})
        raise UserError(
            f"{paths[0].parent}: found {', '.join(suffixes)} files together; give a pattern for "
            "one kind"
        )
    (kind,) = kinds
    root = _root(media_root, paths[0].parent)
    if kind == ".parquet":
        return hugging_face.open_parquet(paths, split, root, index_dir)
    if split is not None:
        raise UserError(f"{paths[0]} has no splits; remove @{split}")
    if kind == ".tar":
        return TarSource(paths, root, index_dir)
    if kind == ".array_record":
        return ArrayRecordSource(paths, root)
    opened = [_open_file(path, _root(media_root, path.parent), index_dir) for path in paths]
    return opened[0] if len(opened) == 1 else ConcatenatedSource(opened)


def _open_file(path: Path, root: Path, index_dir: Path | None) -> Source:
    kind = kind_of(path)
    if kind == ".csv":
        return CsvSource(path, root, index_dir)
    if kind == ".jsonl" or (kind == ".json" and is_json_lines(path)):
        return JsonLinesSource(path, root, index_dir)
    if kind == ".json":
        return JsonArraySource(path, root, index_dir)
    found = f"a {kind} file" if kind else "a file without suffix"
    raise UserError(f"{path}: found {found}; {_UNDERSTOOD}")


def _open_directory(
    path: Path, split: str | None, media_root: str, index_dir: Path | None
) -> Source:
    root = _root(media_root, path)
    try:
        names = {entry.name for entry in path.iterdir()}
        if names & _READ_BY_LIBRARIES:
            _check_files(path)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
    if names & {"dataset_dict.json", "state.json"}:
        return hugging_face.open_saved(path, split, root)
    if {"dataset_info.json", "features.json"} <= names:
        return TfdsSource(path, split or "train", root)
    is_prepared = is_finished(path) or is_begun(path)
    files = [] if is_prepared else files_of_one_kind(path)
    if files and kind_of(files[0]) == ".parquet":
        return hugging_face.open_parquet(files, split, root, index_dir)
    if split is not None:
        raise UserError(f"{path} has no splits; remove @{split}")
    if is_prepared:
        return open_shards(path)
    if files:
        return _open_files(files, None, media_root, index_dir)
    return FolderSource(path, root)


def _check_files(directory: Path) -> None:
    """Raises OSError for a FIFO or device, on which the library that reads it would block."""
    for path in directory.rglob("*"):
        if not path.is_dir():
            check_regular(path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _root(media_root: str, folder: Path) -> Path:
    return Path(media_root) if media_root else folder
