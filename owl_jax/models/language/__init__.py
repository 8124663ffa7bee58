"""Language models, one file each. The keys are also `model_type` in their config.json."""

from collections.abc import Mapping

from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.language.owl2 import Owl2LlamaConfig
from owl_jax.models.parts import LanguagePart

LANGUAGE_MODELS: Mapping[str, type[LanguagePart]] = {
    "llama": LlamaConfig,
    "bloom": BloomConfig,
    "owl2_llama": Owl2LlamaConfig,
}
