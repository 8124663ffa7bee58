"""Language models, one file each.

The key of a model that exists alone is also `model_type` in its config.json.
"""

from owl_jax.errors import UserError, shown
from owl_jax.models.hf_config import Source
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.language.mistral import MistralConfig
from owl_jax.models.language.owl2 import Owl2LlamaConfig
from owl_jax.models.language.qwen2 import Qwen2Config
from owl_jax.models.language.qwen3 import Qwen3Config
from owl_jax.models.parts import LanguagePart, from_hf

LANGUAGE_MODELS: dict[str, type[LanguagePart]] = {
    "llama": LlamaConfig,
    "bloom": BloomConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "owl2_llama": Owl2LlamaConfig,
}


def plain_models() -> dict[str, type[LanguagePart]]:
    """The models that have directories of their own, by model_type in their config.json."""
    return {name: part for name, part in LANGUAGE_MODELS.items() if part.HF_CLASS}


def read_language(source: Source) -> LanguagePart:
    """Reads the config.json of a language model, or the section that describes one.

    Raises UserError for a model that owl_jax cannot compute, and like `LanguagePart.from_hf`.
    """
    kind, known = source.values.get("model_type"), plain_models()
    if kind is None:
        raise UserError(f"{source.path}: no value for {source.key('model_type')!r}")
    if not isinstance(kind, str) or kind not in known:
        raise UserError(
            f"{source.path}: language model {shown(kind)}; expected one of {', '.join(known)}"
        )
    part = known[kind]
    source.refuse_other_computation(part.READS)
    return from_hf(part, source)
