"""Model directories: the released Hugging Face ones, and our own.

Ours has
  config.json         {"format": "owl_jax", "version": 2, "as_trained": prompt tokenisation,
                      "model": OwlConfig.to_dict()}
  params/             all or some subtrees of the parameter tree, written by Orbax
  owl_jax_base.json   the base of an adapter (checkpoint/adapter_base.py)
  source_config.json  config.json of the Hugging Face directory that it was converted from
  tokenizer and preprocessor files, unchanged

Every directory that is written has SHA256SUMS, the hashes of its other files (checksums.py), and
appears complete or not at all (atomic_directory.py).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from owl_jax.checkpoint import huggingface, schema
from owl_jax.checkpoint.adapter import merge_lazy, open_adapter, write_adapter
from owl_jax.checkpoint.adapter_base import (
    Base,
    check_base,
    read_base,
    with_recorded,
    write_base,
)
from owl_jax.checkpoint.atomic_directory import check_free, whole_directory
from owl_jax.checkpoint.checksums import write_checksums
from owl_jax.checkpoint.hf_import import (
    AS_TRAINED,
    Opened,
    abstract_params,
    open_family,
    open_language,
    open_vision,
    own_keys,
    write_family,
)
from owl_jax.checkpoint.orbax_format import open_params, write_params
from owl_jax.checkpoint.schema import (
    ADAPTER_FILE,
    COMPANIONS,
    CONFIG_FILE,
    PARAMS,
    SOURCE_CONFIG_FILE,
)
from owl_jax.errors import UserError, listed, shown
from owl_jax.files import open_regular, read_json
from owl_jax.hub.names import recorded_name
from owl_jax.models.config import OwlConfig, id_problems
from owl_jax.models.families import families, family_for, family_of
from owl_jax.models.families.mplug_owl import SUBTREES_OF_VERSION_1
from owl_jax.models.language import plain_models
from owl_jax.models.parts import faults_told
from owl_jax.models.vision import vision_types
from owl_jax.models.weight_names import projections

FORMATS = ("huggingface", "orbax", "peft")
_FORMAT, _VERSION = "owl_jax", 2


def is_own(directory: Path) -> bool:
    """Whether owl_jax wrote the directory. Raises UserError if there is no config.json."""
    return read_json(directory / CONFIG_FILE).get("format") == _FORMAT


def read_config(directory: Path) -> OwlConfig:
    """Reads the config of a directory of any kind. Raises UserError like `open_any`."""
    if not is_own(directory):
        return open_any(directory).config
    path = directory / CONFIG_FILE
    return _described(path, schema.read_as(path, schema.OwnConfig))


def _described(path: Path, values: schema.OwnConfig) -> OwlConfig:
    """The config in one of our config.json files. Raises UserError for unknown values."""
    if values.version not in (1, _VERSION):
        raise UserError(
            f"{path}: version {values.version}; this owl_jax reads versions 1 and {_VERSION}"
        )
    try:
        config = OwlConfig.from_dict(_with_current_names(values.version, values.model))
    except TypeError as error:
        raise UserError(f"{path}: not a model that this owl_jax knows ({error})") from None
    problems = config.problems() + id_problems(config.llm)
    if config.lora is not None:
        with faults_told(config.llm):
            names = projections(config.llm.weight_rows())
        unknown = [name for name in config.lora.targets if name not in names]
        if unknown or not config.lora.targets:
            problems.append(
                f"lora.targets is {shown(list(config.lora.targets))}; expected some of "
                f"{', '.join(names)}"
            )
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")
    return config


def open_model(directory: Path) -> Opened:
    """Opens a complete model of any format; reads names and shapes only.

    Raises UserError if a file, a subtree or a tensor is missing or does not fit.
    """
    opened = open_any(directory)
    _check_subtrees(str(directory), _subtrees(opened.config), opened.params)
    return opened


def open_subtrees(directory: Path, names: Sequence[str]) -> Opened:
    """Opens the subtrees `names` of a model of either format, or of a single part.

    Raises UserError for a subtree that the directory does not have, and like `open_model`.
    """
    opened = open_any(directory)
    _check_subtrees(str(directory), names, opened.params)
    return dataclasses.replace(opened, params={name: opened.params[name] for name in names})


def add_adapter(opened: Opened, directory: Path, adapter: Path, any_base: bool) -> Opened:
    """Adds an adapter in PEFT's format or ours to the model of `directory`, as the subtree "lora".

    The model gets the conversation format and the resizing that the adapter was trained with, if
    it records them.

    Raises UserError if the model already has an adapter or has no language model, or if the adapter
    belongs to another model; with `any_base`, its recorded base may differ.
    """
    if "llm" not in opened.params:
        raise UserError(f"{directory} has no language model to merge {adapter} into")
    if opened.config.lora is not None:
        raise UserError(
            f"{directory} holds an adapter already; merge it before you load another: python -m "
            f"owl_jax.convert --merge --source={directory} --target=DIR --format=orbax"
        )
    check_base(adapter, opened.params["llm"], recorded_name(directory), any_base)
    config, factors = open_any_adapter(adapter, opened.config)
    return dataclasses.replace(
        opened,
        config=config,
        params={**opened.params, "lora": factors},
        # Only adapters that owl_jax trained have a record of their base.
        as_trained=opened.as_trained or read_base(adapter) is not None,
    )


def merge_adapter(opened: Opened, directory: Path) -> Opened:
    """Merges the adapter of the model of `directory` into its language model.

    Raises UserError if there is no adapter or no language model.
    """
    _check_subtrees(str(directory), ["llm", "lora"], opened.params)
    config, params = _merged(opened.config, opened.params)
    return dataclasses.replace(opened, config=config, params=params)


def _merged(config: OwlConfig, params: Mapping[str, Any]) -> tuple[OwlConfig, dict[str, Any]]:
    """(config, params) with the adapter, if there is one, merged into the language model."""
    if config.lora is None:
        return config, dict(params)
    kept = {name: subtree for name, subtree in params.items() if name != "lora"}
    kept["llm"] = merge_lazy(params["llm"], params["lora"], config.lora)
    return dataclasses.replace(config, lora=None), kept


def open_any_adapter(directory: Path, config: OwlConfig) -> tuple[OwlConfig, dict[str, Any]]:
    """Opens the adapter in a directory of PEFT's format or ours, for the model `config`.

    Returns: (the model's config with the adapter, the subtree "lora" of `LazyArray`s).
    Raises UserError for an adapter of another model.
    """
    if (directory / ADAPTER_FILE).exists() or not (directory / CONFIG_FILE).exists():
        with faults_told(*config.parts.values()):
            lora, factors = open_adapter(directory, config)
        return dataclasses.replace(with_recorded(config, directory), lora=lora), factors
    opened = open_any(directory)
    found = opened.config
    if "lora" not in opened.params and found.lora is None:
        raise UserError(
            f"{directory} is no adapter: it has {', '.join(sorted(opened.params))} but no lora; "
            f"give the directory of an adapter, with {ADAPTER_FILE} or written by a training run"
        )
    # The same weights may be trained with other prompts and pictures.
    config = dataclasses.replace(
        config, conversation=found.conversation, resizing=found.resizing, lora=found.lora
    )
    if found != config:
        raise UserError(f"{directory}: adapter of another model; its config.json differs")
    _check_subtrees(str(directory), ["lora"], opened.params)
    return config, opened.params["lora"]


def save_model(
    directory: Path,
    config: OwlConfig,
    params: Mapping[str, Any],
    format: str,
    companions: Path | None = None,
    base: Base | None = None,
    as_trained: bool = True,
    progress: Callable[[int], None] = lambda nbytes: None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes a model directory in the dtypes of `params`, one layer at a time.

    Args:
      directory: new or empty.
      params: arrays in memory, on devices or lazy. "orbax" takes all subtrees or some;
        "huggingface" takes all and merges the adapter; "peft" needs at least the adapter.
      format: "huggingface", "orbax" (our own) or "peft" (the adapter only).
      companions: a directory whose tokenizer and preprocessor files, if any, are copied.
      base: the base of the adapter; by default the language model in `params`.
      as_trained: prompt tokenisation (hf_import.py, Opened).
      progress: called with the bytes of each tensor after it is written.
      notes: more text files, by name.

    Raises UserError for an unknown format, a directory that is in use or that another run creates
    meanwhile, a missing subtree, an unreadable file of `companions`, or a full disk. Then it leaves
    nothing behind.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r}; expected one of {', '.join(FORMATS)}")
    check_free(directory)
    copied = [] if companions is None or format == "peft" else _companions(companions)
    if base is None and "lora" in params and "llm" in params:
        base = Base.of(recorded_name(companions) if companions else "", params["llm"])
    if format == "huggingface":
        _check_subtrees(str(companions or "the model"), _subtrees(config), params)
        config, params = _merged(config, params)
        base = None
    elif format == "peft" and "lora" not in params:
        raise UserError(
            f"{companions or 'the model'}: the model has no lora; it has "
            f"{', '.join(sorted(params))}; format=peft writes an adapter only: use huggingface "
            "or orbax"
        )
    with faults_told(*config.parts.values()), whole_directory(directory) as target:
        if format == "orbax":
            write_params(target / PARAMS, params, progress)
        if jax.process_index() > 0:
            return
        if base is not None:
            write_base(target, base, config)
        hashes: dict[str, str] = {}
        if format == "peft":
            hashes = write_adapter(config, params["lora"], target, base.name if base else "")
        elif format == "orbax":
            _write_own_config(target, config, as_trained, _source_config(companions))
        else:
            dtype = np.dtype(jax.tree.leaves(params["llm"])[0].dtype)
            source = _source_config(companions)
            family = family_for(config, source)
            if source and family_of(source) is not family:
                source = None
            own = own_keys(config, family, as_trained, companions)
            source = {**_without_own_keys(source), **own} if source or own else None
            huggingface.write_config(config, target, dtype.name, source)
            hashes = write_family(family, config, params, target, progress)
        for path in copied:
            with open_regular(path) as old, (target / path.name).open("xb") as new:
                shutil.copyfileobj(old, new)
        for name, text in (notes or {}).items():
            (target / name).write_text(text, encoding="utf-8")
        write_checksums(target, hashes)


def _companions(directory: Path) -> list[Path]:
    """The files to copy. Raises UserError for one that exists but cannot be read."""
    found = [directory / name for name in COMPANIONS if os.path.lexists(directory / name)]
    for path in found:
        try:
            open_regular(path).close()
        except OSError as error:
            raise UserError(
                f"{path}: cannot be copied ({error.strerror}); repair or remove it"
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
    _write_json(target / CONFIG_FILE, values)
    if source is not None:
        _write_json(target / SOURCE_CONFIG_FILE, source)


def _source_config(companions: Path | None) -> dict[str, Any] | None:
    """The Hugging Face config.json that a model comes from."""
    for name in (SOURCE_CONFIG_FILE, CONFIG_FILE):
        if companions is not None and (companions / name).exists():
            values = read_json(companions / name)
            kind = values.get("model_type")
            return values if isinstance(kind, str) and kind in families() else None
    return None


def _without_own_keys(source: Mapping[str, Any] | None) -> dict[str, Any]:
    """A config.json without the keys that owl_jax wrote about the former model."""
    return {k: v for k, v in (source or {}).items() if k not in schema.Trained.__struct_fields__}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _subtrees(config: OwlConfig) -> list[str]:
    return [*config.parts] + ["lora"] * (config.lora is not None)


def open_any(directory: Path) -> Opened:
    """Opens all the parts that the directory has. Raises UserError like `open_model`."""
    if (directory / ADAPTER_FILE).exists() and not (directory / CONFIG_FILE).exists():
        raise UserError(
            f"{directory} is an adapter; name its model as the model, and this as the adapter "
            "(--adapter, config.init.lora)"
        )
    values = read_json(directory / CONFIG_FILE)
    if values.get("format") == _FORMAT:
        return _open_own(directory)
    kind = values.get("model_type")
    if kind in list(vision_types()):  # a list: `kind` may not be hashable
        return open_vision(directory)
    return open_language(directory) if kind in list(plain_models()) else open_family(directory)


def _open_own(directory: Path) -> Opened:
    values = schema.read_as(directory / CONFIG_FILE, schema.OwnConfig)
    config = _described(directory / CONFIG_FILE, values)
    path = directory.absolute() / PARAMS
    if not path.is_dir():
        raise UserError(f"{directory}: no folder {PARAMS}; copy the whole directory")
    nans: dict[str, int] = {}
    held = _with_current_names(values.version, open_params(path, nans))
    abstract = abstract_params(config)
    _check_subtrees(str(directory), list(held), abstract)
    _check_shapes(directory, held, {name: abstract[name] for name in held})
    return Opened(config, held, as_trained=values.as_trained, nans=nans)


def _with_current_names(version: int, subtrees: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the subtrees of an earlier version."""
    names = SUBTREES_OF_VERSION_1 if version == 1 else {}
    return {names.get(name, name): value for name, value in subtrees.items()}


def _check_subtrees(where: str, names: Sequence[str], params: Mapping[str, Any]) -> None:
    """Raises UserError for missing subtrees, with what else to do with those that are there.

    where: the model's directory, for messages.
    """
    missing = [name for name in names if name not in params]
    if not missing:
        return
    advice = ""
    if [*params] == ["lora"]:
        advice = "; an adapter needs its model (--base of owl_jax.convert, --adapter of others)"
    elif "llm" in missing and "vision" in params:
        advice = "; use it as config.init.vision of a training run, or convert it to orbax"
    raise UserError(
        f"{where}: the model has no {' and no '.join(missing)}; it has "
        f"{', '.join(sorted(params))}{advice}"
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
            f"{directory}: parameters do not match config.json ({len(problems)}): "
            f"{listed(problems, separator='; ')}"
        )
