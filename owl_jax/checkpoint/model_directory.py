"""Model directories: the released Hugging Face ones, and our own.

Our own holds
  config.json         {"format": "owl_jax", "version": 2, "as_trained": how prompts are cut,
                      "model": OwlConfig.to_dict()}
  params/             the branches of the parameter tree, written by Orbax; it may hold only some
  owl_jax_base.json   what an adapter was trained on (checkpoint/adapter_base.py)
  source_config.json  config.json of the Hugging Face directory that it was made from
  tokenizer and preprocessor files, as they came

Every directory that is written holds SHA256SUMS, the hashes of its other files (checksums.py), and
is there whole or not at all (atomic_directory.py).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from owl_jax.checkpoint import huggingface, schema
from owl_jax.checkpoint.adapter import CONFIG_FILE, merge_stored, open_adapter, write_adapter
from owl_jax.checkpoint.adapter_base import Base, check_base, read_base, write_base
from owl_jax.checkpoint.atomic_directory import check_free, whole_directory
from owl_jax.checkpoint.checksums import write_checksums
from owl_jax.checkpoint.hf_import import (
    AS_TRAINED,
    Opened,
    abstract_params,
    open_family,
    open_language,
    open_vision,
    write_family,
)
from owl_jax.checkpoint.lazy_arrays import read
from owl_jax.checkpoint.orbax_format import open_params, write_params
from owl_jax.errors import UserError, listed, shown
from owl_jax.files import open_regular, read_json
from owl_jax.models.config import PARTS, OwlConfig, id_problems
from owl_jax.models.families import FAMILIES
from owl_jax.models.families.mplug_owl import SUBTREES_OF_VERSION_1
from owl_jax.models.language import LANGUAGE_MODELS
from owl_jax.models.lora import LoraConfig
from owl_jax.models.weight_names import projections

FORMATS = ("huggingface", "orbax", "peft")
COMPANIONS = (
    "added_tokens.json",
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)

_FORMAT, _VERSION = "owl_jax", 2
_CONFIG, _PARAMS, _SOURCE_CONFIG = "config.json", "params", "source_config.json"

_OPENERS: Mapping[str, Callable[[Path], Opened]] = {
    **dict.fromkeys(huggingface.VISION_TYPES, open_vision),
    **dict.fromkeys(LANGUAGE_MODELS, open_language),
}


def is_own(directory: Path) -> bool:
    """True for a directory that owl_jax wrote. Raises UserError if there is no config.json."""
    return read_json(directory / _CONFIG).get("format") == _FORMAT


def read_config(directory: Path) -> OwlConfig:
    """The model's description. Raises UserError for a missing, damaged or unknown config.json."""
    if not is_own(directory):
        return open_family(directory).config
    path = directory / _CONFIG
    return _described(path, schema.read_as(path, schema.OwnConfig))


def _described(path: Path, values: schema.OwnConfig) -> OwlConfig:
    """The model of a config.json of ours. Raises UserError for one that is none."""
    if values.version not in (1, _VERSION):
        raise UserError(
            f"{path}: version {values.version}; this owl_jax reads versions 1 and {_VERSION}"
        )
    try:
        config = OwlConfig.from_dict(_of_now(values.version, values.model))
    except TypeError as error:
        raise UserError(f"{path}: no description of a model of this owl_jax ({error})") from None
    problems = config.problems() + id_problems(config.llm)
    if config.lora is not None:
        names = projections(config.llm.weight_rows())
        strangers = [name for name in config.lora.targets if name not in names]
        if strangers or not config.lora.targets:
            problems.append(
                f"lora.targets is {shown(list(config.lora.targets))}; expected some of "
                f"{', '.join(names)}"
            )
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")
    return config


def open_model(directory: Path) -> Opened:
    """Opens a whole mPLUG-Owl of either kind; nothing is read but names and shapes.

    Raises UserError for what is missing or does not fit: a file, a branch, a tensor.
    """
    opened = open_any(directory)
    _check_branches(directory, _branches(opened.config), opened.params)
    return opened


def open_branches(directory: Path, names: Sequence[str]) -> Opened:
    """Opens the branches `names` of a model of either kind, or of a part that lies alone.

    Raises UserError for a branch that the directory does not hold, and as `open_model`.
    """
    opened = open_any(directory)
    _check_branches(directory, names, opened.params)
    return dataclasses.replace(opened, params={name: opened.params[name] for name in names})


def load_model(directory: Path, dtype: Any) -> tuple[OwlConfig, dict[str, Any]]:
    """Reads what `open_model` opens: (its config, its tree as NumPy arrays of `dtype`)."""
    opened = open_model(directory)
    return opened.config, jax.tree.map(partial(read, dtype=jnp.dtype(dtype)), opened.params)


def read_branches(directory: Path, names: Sequence[str], dtype: Any) -> dict[str, Any]:
    """Reads what `open_branches` opens, as NumPy arrays of `dtype`."""
    opened = open_branches(directory, names)
    return jax.tree.map(partial(read, dtype=jnp.dtype(dtype)), opened.params)


def add_adapter(opened: Opened, directory: Path, adapter: Path, any_base: bool) -> Opened:
    """What was opened from `directory`, with an adapter, PEFT's or ours, as its branch "lora".

    Raises UserError if there is one already, no language model to adapt, or the adapter belongs to
    another model; its recorded base may be another if `any_base`.
    """
    if "llm" not in opened.params:
        raise UserError(f"{directory} has no language model to merge {adapter} into")
    if opened.config.lora is not None:
        raise UserError(
            f"{directory} holds an adapter already; save it in the huggingface format, which "
            "merges it, before you load another"
        )
    check_base(adapter, opened.params["llm"], str(directory), any_base)
    lora, factors = open_any_adapter(adapter, opened.config)
    return dataclasses.replace(
        opened,
        config=dataclasses.replace(opened.config, lora=lora),
        params={**opened.params, "lora": factors},
        # An adapter with a record of its base is one that owl_jax trained.
        as_trained=opened.as_trained or read_base(adapter) is not None,
    )


def open_any_adapter(directory: Path, config: OwlConfig) -> tuple[LoraConfig, dict[str, Any]]:
    """Opens a PEFT directory's adapter, or that of a directory of ours, for the model `config`.

    Returns: (its config, the tree's branch "lora", each leaf a `Stored`).
    Raises UserError for an adapter of another model.
    """
    if (directory / CONFIG_FILE).exists() or not (directory / _CONFIG).exists():
        return open_adapter(directory, config)
    opened = open_any(directory)
    if dataclasses.replace(opened.config, lora=None) != config:
        raise UserError(f"{directory}: the adapter of another model; its config.json differs")
    _check_branches(directory, ["lora"], opened.params)
    assert opened.config.lora is not None
    return opened.config.lora, opened.params["lora"]


def save_model(
    directory: Path,
    config: OwlConfig,
    params: Mapping[str, Any],
    format: str,
    companions: Path | None = None,
    base: Base | None = None,
    as_trained: bool = True,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Writes a model directory in the dtypes that `params` has, one layer at a time.

    Args:
      directory: must not exist, or be empty.
      params: in memory, on devices or stored. For "orbax", all branches or some; for "huggingface"
        all, and an adapter is merged; for "peft" at least the adapter.
      format: "huggingface", "orbax" (our own) or "peft" (the adapter alone).
      companions: a directory whose tokenizer files and the like are copied, as far as it has any.
      base: what the adapter was trained on; by default the language model among `params`.
      as_trained: how prompts are cut for it (weights.py, Opened).
      progress: is told the bytes of each tensor after it is written.

    Raises UserError for an unknown format, a directory that is in use or comes into use meanwhile,
    a missing branch, a file of `companions` that cannot be read, a full disk; nothing is left
    behind then.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r}; expected one of {', '.join(FORMATS)}")
    check_free(directory)
    copied = [] if companions is None or format == "peft" else _companions(companions)
    if base is None and "lora" in params and "llm" in params:
        base = Base.of(str(companions or ""), params["llm"])
    if format == "huggingface":
        _check_branches(directory, _branches(config), params)
        if config.lora is not None:
            merged = merge_stored(params["llm"], params["lora"], config.lora)
            params = {**params, "llm": merged}
            config = dataclasses.replace(config, lora=None)
        base = None
    elif format == "peft":
        _check_branches(directory, ["lora"], params)
    with whole_directory(directory) as target:
        if format == "orbax":
            write_params(target / _PARAMS, params, progress)
        if jax.process_index() > 0:
            return
        if base is not None:
            write_base(target, base)
        hashes: dict[str, str] = {}
        if format == "peft":
            hashes = write_adapter(config, params["lora"], target, base.name if base else "")
        elif format == "orbax":
            _write_own_config(target, config, as_trained, _source_config(companions))
        else:
            dtype = np.dtype(jax.tree.leaves(params["llm"])[0].dtype)
            source = _source_config(companions)
            if as_trained:
                source = {**(source or {}), AS_TRAINED: True}
            huggingface.write_config(config, target, dtype.name, source)
            hashes = write_family(config, params, target, progress)
        for path in copied:
            with open_regular(path) as old, (target / path.name).open("xb") as new:
                shutil.copyfileobj(old, new)
        write_checksums(target, hashes)


def _companions(directory: Path) -> list[Path]:
    """The files that come along. Raises UserError for one that is there and cannot be read."""
    found = [directory / name for name in COMPANIONS if os.path.lexists(directory / name)]
    for path in found:
        try:
            open_regular(path).close()
        except OSError as error:
            raise UserError(
                f"{path}: cannot be copied ({error.strerror}); mend or remove it"
            ) from None
    return found


def _write_own_config(
    target: Path, config: OwlConfig, as_trained: bool, source: Mapping[str, Any] | None
) -> None:
    values = {
        "format": _FORMAT,
        "version": _VERSION,
        AS_TRAINED: as_trained,
        "model": config.to_dict(),
    }
    _write_json(target / _CONFIG, values)
    if source is not None:
        _write_json(target / _SOURCE_CONFIG, source)


def _source_config(companions: Path | None) -> dict[str, Any] | None:
    """The config.json, in Hugging Face's form, of what a model is made from."""
    for name in (_SOURCE_CONFIG, _CONFIG):
        if companions is not None and (companions / name).exists():
            values = read_json(companions / name)
            return values if values.get("model_type") in FAMILIES else None
    return None


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _branches(config: OwlConfig) -> list[str]:
    return [*PARTS] + ["lora"] * (config.lora is not None)


def open_any(directory: Path) -> Opened:
    """Opens whatever parts of a model a directory holds. Raises UserError as `open_model`."""
    values = read_json(directory / _CONFIG)
    if values.get("format") == _FORMAT:
        return _open_own(directory)
    kind = values.get("model_type")
    opener = _OPENERS.get(kind, open_family) if isinstance(kind, str) else open_family
    return opener(directory)


def _open_own(directory: Path) -> Opened:
    values = schema.read_as(directory / _CONFIG, schema.OwnConfig)
    config = _described(directory / _CONFIG, values)
    path = directory.absolute() / _PARAMS
    if not path.is_dir():
        raise UserError(f"{directory}: no folder {_PARAMS}; copy the whole directory")
    nans: dict[str, int] = {}
    held = _of_now(values.version, open_params(path, nans))
    abstract = abstract_params(config)
    _check_branches(directory, list(held), abstract)
    _check_shapes(directory, held, {name: abstract[name] for name in held})
    return Opened(config, held, as_trained=values.as_trained, nans=nans)


def _of_now(version: int, subtrees: Mapping[str, Any]) -> dict[str, Any]:
    """A description or tree of an earlier version under today's names."""
    names = SUBTREES_OF_VERSION_1 if version == 1 else {}
    return {names.get(name, name): value for name, value in subtrees.items()}


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
            f"{directory}: parameters that do not fit config.json ({len(problems)}): "
            f"{listed(problems, separator='; ')}"
        )
