"""Model families, one file each: their parts, config.json and tensor names."""

from collections.abc import Mapping

from owl_jax.errors import UserError
from owl_jax.models.config import OwlConfig
from owl_jax.models.families.family import Family
from owl_jax.models.families.mplug_owl import MPLUG_OWL
from owl_jax.models.families.mplug_owl2 import MPLUG_OWL2
from owl_jax.models.families.plain_language import PLAIN_LANGUAGE

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (MPLUG_OWL, MPLUG_OWL2)}


def family_for(config: OwlConfig) -> Family:
    """The family whose format can express a model. Raises UserError if there is none."""
    if config.text_only:
        return PLAIN_LANGUAGE
    for family in FAMILIES.values():
        if family.fits(config):
            return family
    parts = ", ".join(part.architecture for part in config.parts.values())
    raise UserError(
        f"no Hugging Face format for a model of {parts}; save with format=orbax (formats: "
        f"{', '.join(FAMILIES)})"
    )
