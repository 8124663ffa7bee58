"""Vision encoders, one file each."""

from collections.abc import Mapping

from owl_jax.models.parts import VisionPart
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.vision.siglip import SiglipConfig

VISION_ENCODERS: Mapping[str, type[VisionPart]] = {"clip": ClipConfig, "siglip": SiglipConfig}
