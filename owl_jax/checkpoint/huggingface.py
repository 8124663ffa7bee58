"""Hugging Face's config.json: reads and writes that of a family, reads that of a single part."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from owl_jax.checkpoint.hub_directory import model_directory
from owl_jax.checkpoint.schema import CONFIG_FILE
from owl_jax.errors import UserError, shown
from owl_jax.files import is_directory, read_json
from owl_jax.hub.errors import NotOnHub
from owl_jax.hub.names import parse_name
from owl_jax.models.config import OwlConfig
from owl_jax.models.families import family_for, family_of
from owl_jax.models.families.family import TOWER_CONFIG
from owl_jax.models.hf_config import Source
from owl_jax.models.language import read_language
from owl_jax.models.parts import LanguagePart, VisionPart
from owl_jax.models.vision import read_vision


def tower_directory(directory: Path) -> Path | None:
    """The directory of a model's vision tower, if config.json names one; else None.

    It is at the path in config.json, absolute or relative to the model's directory; otherwise it is
    beside the model's directory, named like the last component of that path; otherwise on the hub.
    Raises UserError if it is nowhere.
    """
    values = read_json(directory / CONFIG_FILE)
    key = family_of(values, directory / CONFIG_FILE).tower
    if key is None or isinstance(values.get("vision_config"), dict):
        return None
    named = values.get(key)
    if not isinstance(named, str) or not named:
        raise UserError(
            f"{directory / CONFIG_FILE}: {key} is {shown(named)}; expected the directory of the "
            "vision tower"
        )
    beside = directory.absolute().parent / Path(named).name
    for candidate in (directory / named, beside):
        if is_directory(candidate):
            return candidate
    where = f"{directory / CONFIG_FILE}: {key} is {shown(named)}; "
    missing = f"no such directory, and there is no {beside}; put the vision tower there"
    if parse_name(named) is None:
        raise UserError(f"{where}{missing}")
    try:
        return model_directory(named)
    except NotOnHub as error:
        raise UserError(f"{where}{missing} ({error})") from None


def read_config(directory: Path, tensors: Collection[str] = ()) -> OwlConfig:
    """Reads config.json of a family's model.

    tensors: names of its tensors, which identify the video release; config.json does not.
    Raises UserError for a missing or unsuitable file: a value of another type or out of range,
    inconsistent sizes, or an unsupported computation.
    """
    path = directory / CONFIG_FILE
    values = read_json(path)
    if (tower := tower_directory(directory)) is not None:
        values = {**values, TOWER_CONFIG: read_json(tower / CONFIG_FILE)}
    config = family_of(values, path).read_config(Source(path, values), tensors)
    _refuse(path, config.problems())
    return config


def read_vision_config(directory: Path) -> VisionPart:
    """Reads the vision encoder from its own config.json, or from that of a model that includes it.

    Raises UserError like `read_config`.
    """
    path = directory / CONFIG_FILE
    values = read_json(path)
    vision = read_vision(Source(path, values))
    _refuse(path, vision.problems("vision"))
    return vision


def read_language_config(directory: Path) -> LanguagePart:
    """Reads config.json of a plain language model. Raises UserError like `read_config`."""
    path = directory / CONFIG_FILE
    values = read_json(path)
    llm = read_language(Source(path, values))
    _refuse(path, OwlConfig(None, None, llm).problems())
    return llm


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")


def write_config(
    config: OwlConfig, directory: Path, dtype: str, source: Mapping[str, Any] | None = None
) -> None:
    """Writes config.json with the family's keys, keeping other keys of `source`.

    Raises UserError for parts that the family's format does not support.
    """
    family = family_for(config, source)
    known = _updated(family.defaults(config), source or {})
    values = _updated(known, family.write_config(config, dtype))
    if "dtype" in values:  # the name that transformers 5 reads first
        values["dtype"] = dtype
    written = json.dumps(values, indent=2) + "\n"
    (directory / CONFIG_FILE).write_text(written, encoding="utf-8")


def _updated(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` updated recursively by `new`; a list of EOS ids is kept if it has the new one."""
    result = dict(old)
    for key, value in new.items():
        before = old.get(key)
        if key == "eos_token_id" and isinstance(before, list) and value in before:
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            value = _updated(before, value)
        result[key] = value
    return result
