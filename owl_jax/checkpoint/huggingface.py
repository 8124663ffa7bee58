"""Hugging Face's config.json: reads and writes a family's, and reads a single part's."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from owl_jax.checkpoint.schema import CONFIG_FILE
from owl_jax.errors import UserError, shown
from owl_jax.files import read_json
from owl_jax.models.config import OwlConfig
from owl_jax.models.families import FAMILIES, Family, family_for
from owl_jax.models.families.mplug_owl import MPLUG_OWL
from owl_jax.models.hf_config import Source
from owl_jax.models.language import plain_models, read_language
from owl_jax.models.parts import LanguagePart, VisionPart
from owl_jax.models.vision import VISION_ENCODERS

# Vision encoders by the model_type of a directory that has only the encoder or includes it.
VISION_TYPES: Mapping[str, type[VisionPart]] = {
    name: part for part in VISION_ENCODERS.values() for name in part.MODEL_TYPES
}


def family_of(path: Path, values: Mapping[str, Any]) -> Family:
    """The family of a config.json; without a model_type mPLUG-Owl, whose reader may refuse it.

    Raises UserError, naming `path`, for a model_type that owl_jax does not know.
    """
    kind = values.get("model_type")
    if kind is None:
        return MPLUG_OWL
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join((*FAMILIES, *VISION_TYPES, *plain_models()))
        raise UserError(f"{path}: model_type is {shown(kind)}; expected one of {known}")
    return FAMILIES[kind]


def read_config(directory: Path, tensors: Collection[str] = ()) -> OwlConfig:
    """Reads config.json of a family's model.

    tensors: names of its tensors, which identify the video release; config.json does not.
    Raises UserError for a missing or unsuitable file: a value of another type or out of range,
    inconsistent sizes, or an unsupported computation.
    """
    path = directory / CONFIG_FILE
    values = read_json(path)
    config = family_of(path, values).read_config(Source(path, values), tensors)
    _refuse(path, config.problems())
    return config


def read_vision_config(directory: Path) -> VisionPart:
    """Reads the vision encoder from its own config.json, or from that of a model that includes it.

    Raises UserError like `read_config`.
    """
    path = directory / CONFIG_FILE
    values = read_json(path)
    # A file without a type is taken for the first encoder's.
    kind = values.get("model_type", next(iter(VISION_TYPES)))
    if not isinstance(kind, str) or kind not in VISION_TYPES:
        known = ", ".join(VISION_TYPES)
        raise UserError(f"{path}: vision encoder {shown(kind)}; expected {known}")
    vision = VISION_TYPES[kind].from_hf(Source(path, values))
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
    values = family_for(config).write_config(config, dtype)
    if "dtype" in (source or {}):  # transformers 5 reads this name first
        values["dtype"] = dtype
    written = json.dumps(_updated(source or {}, values), indent=2) + "\n"
    (directory / CONFIG_FILE).write_text(written, encoding="utf-8")


def _updated(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` updated recursively by `new`; a list of EOS ids stays if it has the new one."""
    result = dict(old)
    for key, value in new.items():
        before = old.get(key)
        if key == "eos_token_id" and isinstance(before, list) and value in before:
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            value = _updated(before, value)
        result[key] = value
    return result
