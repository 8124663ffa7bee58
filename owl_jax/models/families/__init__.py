"""Model families, one file each: their parts, config.json and tensor names."""

from collections.abc import Mapping
from typing import Any

from owl_jax.errors import UserError
from owl_jax.models.config import PARTS, OwlConfig
from owl_jax.models.families.family import Family
from owl_jax.models.families.llava import LLAVA, LLAVA_ORIGINAL
from owl_jax.models.families.mplug_owl import MPLUG_OWL
from owl_jax.models.families.mplug_owl2 import MPLUG_OWL2

FAMILIES: Mapping[str, Family] = {
    family.model_type: family for family in (MPLUG_OWL, MPLUG_OWL2, LLAVA, LLAVA_ORIGINAL)
}


def family_of(values: Mapping[str, Any]) -> Family:
    """The family of a config.json; for an unknown one mPLUG-Owl, whose reader may refuse it."""
    kind = values.get("model_type")
    if kind == LLAVA.model_type and LLAVA_ORIGINAL.tower in values and "text_config" not in values:
        return LLAVA_ORIGINAL  # the authors' files have the same model_type
    return FAMILIES.get(kind, MPLUG_OWL) if isinstance(kind, str) else MPLUG_OWL


def family_for(config: OwlConfig, source: Mapping[str, Any] | None = None) -> Family:
    """The family whose format can express a model.

    source: the config.json that the model comes from; its family is preferred.
    Raises UserError if there is none.
    """
    preferred = [] if source is None else [family_of(source)]
    for family in (*preferred, *FAMILIES.values()):
        if family.fits(config):
            return family
    parts = ", ".join(getattr(config, name).architecture for name in PARTS)
    raise UserError(
        f"no Hugging Face format for a model of {parts}; save with format=orbax (formats: "
        f"{', '.join(FAMILIES)})"
    )
