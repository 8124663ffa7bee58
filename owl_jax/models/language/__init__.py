"""Language models, one file each. The keys are also `model_type` in their config.json."""

from collections.abc import Mapping

from owl_jax.errors import UserError, shown
from owl_jax.models.hf_config import Source
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.language.owl2 import Owl2LlamaConfig
from owl_jax.models.parts import LanguagePart

LANGUAGE_MODELS: Mapping[str, type[LanguagePart]] = {
    "llama": LlamaConfig,
    "bloom": BloomConfig,
    "owl2_llama": Owl2LlamaConfig,
}


def read_language(source: Source) -> LanguagePart:
    """Reads the config.json of a language model, or the section that describes one.

    Raises UserError for a model that owl_jax cannot compute, and as `LanguagePart.from_hf`.
    """
    kind = source.values.get("model_type")
    if kind is None:
        raise UserError(f"{source.path}: no value for {source.key('model_type')!r}")
    if not isinstance(kind, str) or kind not in LANGUAGE_MODELS:
        known = ", ".join(LANGUAGE_MODELS)
        raise UserError(f"{source.path}: language model {shown(kind)}; expected one of {known}")
    source.refuse_other_computation()
    return LANGUAGE_MODELS[kind].from_hf(source)
