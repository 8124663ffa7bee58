"""Vision encoders, one file each."""

from collections.abc import Mapping

from owl_jax.errors import UserError, shown
from owl_jax.models.hf_config import Source
from owl_jax.models.parts import VisionPart, from_hf
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.vision.siglip import SiglipConfig

VISION_ENCODERS: Mapping[str, type[VisionPart]] = {"clip": ClipConfig, "siglip": SiglipConfig}


def vision_types() -> Mapping[str, type[VisionPart]]:
    """Encoders by model_type in config.json, their own or that of a model that includes one."""
    return {name: part for part in VISION_ENCODERS.values() for name in part.MODEL_TYPES}


def read_vision(source: Source) -> VisionPart:
    """Reads the config.json of a vision encoder, or the section that describes one.

    Raises UserError for an encoder that owl_jax cannot compute, and like `VisionPart.from_hf`.
    """
    types = vision_types()
    # A file without a model_type is assumed to be the first encoder's.
    kind = source.values.get("model_type", next(iter(types)))
    if not isinstance(kind, str) or kind not in types:
        known = ", ".join(types)
        raise UserError(f"{source.path}: vision encoder {shown(kind)}; expected {known}")
    return from_hf(types[kind], source)
