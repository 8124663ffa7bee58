"""Model families, one file each: their parts, config.json and tensor names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.models.config import OwlConfig
from owl_jax.models.families.family import Family
from owl_jax.models.families.llava import LLAVA, LLAVA_ORIGINAL
from owl_jax.models.families.mplug_owl import MPLUG_OWL
from owl_jax.models.families.mplug_owl2 import MPLUG_OWL2
from owl_jax.models.families.plain_language import PLAIN_LANGUAGE
from owl_jax.models.language import plain_models
from owl_jax.models.vision import vision_types

# By model_type in config.json. `families` adds plain language models.
FAMILIES: Mapping[str, Family] = {
    family.model_type: family for family in (MPLUG_OWL, MPLUG_OWL2, LLAVA, LLAVA_ORIGINAL)
}


def families() -> dict[str, Family]:
    """All families by model_type, including plain language models, also those of users' own."""
    return {**FAMILIES, **dict.fromkeys(plain_models(), PLAIN_LANGUAGE)}


_MPLUG_OWLS = "visual_abstractor_config"  # in files of mPLUG-Owl, with or without a model_type


def family_of(values: Mapping[str, Any], path: Path | None = None) -> Family:
    """The family of a config.json.

    path: the file, for messages. Raises UserError if it names no family that owl_jax knows.
    """
    kind = values.get("model_type")
    if kind is None and _MPLUG_OWLS in values:
        return MPLUG_OWL
    if kind == LLAVA.model_type and LLAVA_ORIGINAL.tower in values and "text_config" not in values:
        return LLAVA_ORIGINAL  # the authors' files have the same model_type
    found = families()
    if not isinstance(kind, str) or kind not in found:
        known = ", ".join({**found, **vision_types()})
        where = f"{path}: " if path else ""
        said = "no model_type" if kind is None else f"model_type is {shown(kind)}"
        raise UserError(f"{where}{said}; expected one of {known}")
    return found[kind]


def family_for(config: OwlConfig, source: Mapping[str, Any] | None = None) -> Family:
    """The family whose format can express a model.

    source: the config.json that the model comes from; its family is preferred.
    Raises UserError if there is none.
    """
    preferred = [family_of(source)] if source and "model_type" in source else []
    for family in (*preferred, *FAMILIES.values(), PLAIN_LANGUAGE):
        if family.fits(config):
            return family
    parts = ", ".join(part.architecture for part in config.parts.values())
    raise UserError(
        f"no Hugging Face format for a model of {parts}; save with format=orbax (formats: "
        f"{', '.join(FAMILIES)})"
    )
