"""Model families, one file each: their parts, config.json and tensor names."""

from collections.abc import Mapping

from owl_jax.models.families.family import Family
from owl_jax.models.families.mplug_owl import MPLUG_OWL

FAMILIES: Mapping[str, Family] = {MPLUG_OWL.model_type: MPLUG_OWL}
