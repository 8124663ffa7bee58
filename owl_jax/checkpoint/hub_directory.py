"""Directories of models, adapters and tokenizers by their names: paths, or names of the hub.

Of a repository only what is read is downloaded: safetensors if there are any, else PyTorch files.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from owl_jax.checkpoint.checksums import is_list, listed_files
from owl_jax.checkpoint.schema import (
    ADAPTER_FILE,
    ADAPTER_WEIGHTS,
    BASE_FILE,
    COMPANIONS,
    CONFIG_FILE,
    PARAMS,
    SOURCE_CONFIG_FILE,
    WEIGHTS_FILES,
)
from owl_jax.checkpoint.torch_files import check_torch
from owl_jax.errors import UserError, listed
from owl_jax.files import read_json
from owl_jax.hub.names import on_hub
from owl_jax.hub.snapshot import Snapshot, Tell, open_snapshot, tell

_DESCRIPTIONS = (CONFIG_FILE, ADAPTER_FILE, BASE_FILE, SOURCE_CONFIG_FILE, *COMPANIONS)


def model_directory(name: str | os.PathLike[str], whole: bool = False, tell: Tell = tell) -> Path:
    """The directory of a model or an adapter: `name` itself, or the hub's of that name.

    whole: also what is not read but listed in checksums, if there are any.

    Raises UserError for a repository that cannot be had.
    """
    snapshot = _opened(name)
    if snapshot is None:
        return Path(name)
    directory = snapshot.directory / snapshot.name.path
    names = snapshot.below(snapshot.name.path)
    kind = next((kind for kind in WEIGHTS_FILES if {kind, _index(kind)} & {*names}), "")
    _download(snapshot, {*_DESCRIPTIONS, _index(kind)} & {*names}, tell)
    weights = _weights(directory, names, kind)
    if any(name.endswith(".bin") for name in weights):
        check_torch(f"{snapshot.name}: {weights[0]}")
    if whole and (lists := [name for name in names if is_list(name)]):
        _download(snapshot, lists, tell)
        weights += [name for name in listed_files(directory) if name in names]
    _download(snapshot, weights, tell)
    return directory


def tokenizer_directory(name: str | os.PathLike[str], tell: Tell = tell) -> Path:
    """Like `model_directory`, for the tokenizer: without weights."""
    snapshot = _opened(name)
    if snapshot is None:
        return Path(name)
    folder = snapshot.name.path
    _download(snapshot, {*_DESCRIPTIONS} & {*snapshot.below(folder)}, tell)
    return snapshot.directory / folder


def _opened(name: str | os.PathLike[str]) -> Snapshot | None:
    """The repository of a name, None for a path. Raises UserError if it lacks the folder."""
    hub_name = on_hub(name)
    if hub_name is None:
        return None
    snapshot = open_snapshot(hub_name)
    if not snapshot.below(hub_name.path):
        folders = {path.partition("/")[0] for path in snapshot.files if "/" in path}
        raise UserError(
            f"{hub_name}: no files there; the repository has the folders "
            f"{listed(sorted(folders)) or 'none'}"
        )
    return snapshot


def _download(snapshot: Snapshot, names: Iterable[str], tell: Tell) -> None:
    """Downloads files of the folder that the snapshot's name has."""
    folder = snapshot.name.path
    start = f"{folder}/" if folder else ""
    snapshot.download([glob.escape(f"{start}{name}") for name in names], tell)


def _index(weights: str) -> str:
    return f"{weights}.index.json"


def _weights(directory: Path, names: Collection[str], kind: str) -> list[str]:
    """Which of `names` are files with weights that will be read.

    kind: the one of WEIGHTS_FILES that is there, or its index; "" if none is.
    """
    own = [name for name in names if name.startswith(f"{PARAMS}/")]
    if own and CONFIG_FILE in names and "format" in read_json(directory / CONFIG_FILE):
        return own
    found = [name for name in ADAPTER_WEIGHTS if name in names][:1]
    if _index(kind) in names:
        # What is wrong with an index is told when it is opened (checkpoint/hf_import.py).
        shards = read_json(directory / _index(kind)).get("weight_map")
        wanted = [*shards.values()] if isinstance(shards, dict) else []
        return [*found, *(name for name in names if name in wanted)]
    return [*found, kind] if kind else found
