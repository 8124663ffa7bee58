"""The released variants by name: what each is made of."""

from __future__ import annotations

from owl_jax.errors import UserError
from owl_jax.models.config import (
    AbstractorConfig,
    BloomConfig,
    LoraConfig,
    OwlConfig,
    VisionConfig,
)

VARIANTS: dict[str, OwlConfig] = {
    # MAGAer13/mplug-owl-llama-7b, -pt and -ft
    "llama": OwlConfig(),
    # MAGAer13/mplug-owl-bloomz-7b-multilingual
    "bloomz": OwlConfig(llm=BloomConfig()),
    # MAGAer13/mplug-owl-llama-7b-video
    "video": OwlConfig(
        vision=VisionConfig(temporal=True), abstractor=AbstractorConfig(temporal=True)
    ),
}

# The projections that the original's adapter takes (pipeline/train.py); BLOOM's are fused.
LORA: dict[str, LoraConfig] = {
    "llama": LoraConfig(),
    "bloomz": LoraConfig(targets=("query_key_value",)),
    "video": LoraConfig(),
}


def variant(name: str) -> OwlConfig:
    """A released variant without adapter. Raises UserError for an unknown name."""
    if name not in VARIANTS:
        raise UserError(f"unknown variant {name!r}: choose one of {', '.join(VARIANTS)}")
    return VARIANTS[name]
