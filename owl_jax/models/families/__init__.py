"""Model families, one file each: their parts, config.json and tensor names."""

from collections.abc import Mapping

from owl_jax.models.config import OwlConfig
from owl_jax.models.families.family import Family
from owl_jax.models.families.mplug_owl import MODEL_TYPE, MPLUG_OWL
from owl_jax.models.families.plain_language import PLAIN_LANGUAGE
from owl_jax.models.language import LANGUAGE_MODELS

# By model_type in config.json.
FAMILIES: Mapping[str, Family] = {
    MODEL_TYPE: MPLUG_OWL,
    **dict.fromkeys(LANGUAGE_MODELS, PLAIN_LANGUAGE),
}


def family_for(config: OwlConfig) -> Family:
    """The family in whose format a model is written.

    It is mPLUG-Owl for parts that no family combines; its `write_config` refuses them.
    """
    families = dict.fromkeys(FAMILIES.values())
    return next((family for family in families if family.holds(config)), MPLUG_OWL)
