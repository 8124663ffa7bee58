"""Families of models, a file each: which parts, and how their directories read and write."""

from collections.abc import Mapping

from owl_jax.models.families.family import Family
from owl_jax.models.families.mplug_owl import MPLUG_OWL

FAMILIES: Mapping[str, Family] = {MPLUG_OWL.model_type: MPLUG_OWL}
