"""Model directories: the released Hugging Face ones, and our own.

Our own holds
  config.json   {"format": "owl_jax", "version": 1, "model": OwlConfig.to_dict()}
  params/       the branches of the parameter tree, written by Orbax; it may hold only some
  tokenizer files, as they came

A directory is written beside its place and renamed when it is complete: it is there whole or not
at all.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl.logging import get_absl_logger
from flax.traverse_util import flatten_dict
from jax.experimental.multihost_utils import sync_global_devices
from safetensors import SafetensorError

from owl_jax.checkpoint import huggingface
from owl_jax.checkpoint.manager import DISK_FULL, QuietOrbax
from owl_jax.errors import UserError
from owl_jax.models import lora
from owl_jax.models.config import OwlConfig

FORMATS = ("huggingface", "orbax")
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)

_FORMAT, _VERSION = "owl_jax", 1
_CONFIG, _PARAMS = "config.json", "params"


def is_own(directory: Path) -> bool:
    """True for a directory that owl_jax wrote. Raises UserError if there is no config.json."""
    return huggingface.read_json(directory / _CONFIG).get("format") == _FORMAT


def read_config(directory: Path) -> OwlConfig:
    """The model's description. Raises UserError for a missing, damaged or unknown config.json."""
    if not is_own(directory):
        return huggingface.read_config(directory)
    path = directory / _CONFIG
    values = huggingface.read_json(path)
    if values.get("version") != _VERSION:
        raise UserError(
            f"{path}: version {values.get('version')!r}; this owl_jax reads version {_VERSION}"
        )
    try:
        return OwlConfig.from_dict(values["model"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: no description of a model of this owl_jax ({error})") from None


def load_model(directory: Path, dtype: Any) -> tuple[OwlConfig, dict[str, Any]]:
    """Reads a whole model of either kind: (its config, its tree as NumPy arrays of `dtype`).

    Raises UserError for what is missing or does not fit: a file, a branch, a tensor.
    """
    config = read_config(directory)
    return config, read_branches(directory, _branches(config), dtype)


def read_branches(directory: Path, names: Sequence[str], dtype: Any) -> dict[str, Any]:
    """Reads the branches `names` of a model of either kind, as NumPy arrays of `dtype`.

    Raises UserError for a branch that the directory does not hold, and as `load_model`.
    """
    config, dtype = read_config(directory), jnp.dtype(dtype)
    if is_own(directory):
        return _read_own(directory, config, names, dtype)
    # A Hugging Face directory is checked as a whole, so it is also read as a whole.
    params = huggingface.read_params(config, directory, dtype)
    _check_branches(directory, names, params)
    return {name: params[name] for name in names}


def save_model(
    directory: Path,
    config: OwlConfig,
    params: Mapping[str, Any],
    format: str,
    tokenizer_source: Path | None = None,
) -> None:
    """Writes a model directory in the dtypes that `params` has.

    Args:
      directory: must not exist, or be empty.
      params: for "orbax", all branches or some; for "huggingface" all, and an adapter is merged.
      format: "huggingface" or "orbax" (our own).
      tokenizer_source: a directory whose tokenizer files are copied, as far as it has any.

    Raises UserError for an unknown format, a directory that is in use, a missing branch, a full
    disk; nothing is left behind then.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r}; expected {' or '.join(FORMATS)}")
    directory = directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists already; name another place or remove it")
    if format == "huggingface":
        _check_branches(directory, _branches(config), params)
        if config.lora is not None:
            merged = lora.merge(params["llm"], params["lora"], config.lora)
            params = {**params, "llm": merged}
            config = dataclasses.replace(config, lora=None)
    with _whole_or_not_at_all(directory) as target:
        if format == "orbax":
            # All processes of a multi-host run write their part.
            with _quiet_orbax(), ocp.PyTreeCheckpointer() as checkpointer:
                checkpointer.save(target / _PARAMS, dict(params))
        if jax.process_index() > 0:
            return
        if format == "orbax":
            values = {"format": _FORMAT, "version": _VERSION, "model": config.to_dict()}
            text = json.dumps(values, indent=2) + "\n"
            (target / _CONFIG).write_text(text, encoding="utf-8")
        else:
            dtype = jax.tree.leaves(params["llm"])[0].dtype
            huggingface.write_config(config, target, str(dtype))
            huggingface.write_params(config, params, target)
        for name in TOKENIZER_FILES:
            if tokenizer_source is not None and (tokenizer_source / name).is_file():
                shutil.copyfile(tokenizer_source / name, target / name)


def _branches(config: OwlConfig) -> list[str]:
    return ["vision", "abstractor", "llm"] + ["lora"] * (config.lora is not None)


def _read_own(
    directory: Path, config: OwlConfig, names: Sequence[str], dtype: Any
) -> dict[str, Any]:
    path = directory.absolute() / _PARAMS
    if not path.is_dir():
        raise UserError(f"{directory}: no folder {_PARAMS}; copy the whole directory")
    try:
        with _quiet_orbax(), ocp.PyTreeCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(path).item_metadata
            if metadata is None:
                raise UserError(f"{path}: damaged, copy the directory again (no metadata)")
            held = metadata.tree
            _check_branches(directory, names, held)
            abstract = huggingface.abstract_params(config)
            _check_branches(directory, names, abstract)
            wanted = {name: abstract[name] for name in names}
            _check_shapes(directory, {name: held[name] for name in names}, wanted)
            restore = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtype), wanted
            )
            return checkpointer.restore(
                path,
                args=ocp.args.PyTreeRestore(wanted, restore_args=restore, partial_restore=True),
            )
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged, copy the directory again ({error})") from error


def _check_branches(directory: Path, names: Sequence[str], params: Mapping[str, Any]) -> None:
    missing = [name for name in names if name not in params]
    if missing:
        raise UserError(
            f"{directory}: the model has no {' and no '.join(missing)}; it has "
            f"{', '.join(sorted(params))}"
        )


def _check_shapes(directory: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    found = {path: leaf.shape for path, leaf in flatten_dict(dict(held), sep="/").items()}
    expected = {path: leaf.shape for path, leaf in flatten_dict(dict(wanted), sep="/").items()}
    problems = [
        f"{path}: found {found.get(path, 'nothing')}, expected {expected.get(path, 'nothing')}"
        for path in sorted(found.keys() | expected.keys())
        if found.get(path) != expected.get(path)
    ]
    if problems:
        raise UserError(
            f"{directory}: parameters that do not fit config.json ({len(problems)}):\n  "
            + "\n  ".join(problems)
        )


@contextmanager
def _whole_or_not_at_all(directory: Path) -> Iterator[Path]:
    """A new directory to write into, renamed to `directory` at the end, removed after an error.

    Process 0 of a multi-host run makes and renames it, the others wait for that.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    first = jax.process_index() == 0
    try:
        if first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        sync_global_devices(f"{partial} is there")
        yield partial
        sync_global_devices(f"{partial} is complete")
        if first:
            partial.rename(directory)
    except (OSError, SafetensorError, ValueError) as error:
        # TensorStore and safetensors say what the system said in a text of theirs.
        reason = next((reason for reason in DISK_FULL if reason in str(error)), None)
        if reason is None and not isinstance(error, OSError):
            raise
        raise UserError(
            f"{directory} cannot be written: {reason or error}; nothing is left of it. Free some "
            "space or name another place"
        ) from error
    finally:
        if first:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    logger, silence = get_absl_logger(), QuietOrbax()
    logger.addFilter(silence)
    try:
        yield
    finally:
        logger.removeFilter(silence)
