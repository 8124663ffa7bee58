"""The released variants by name, and the demonstration's: what each is made of."""

from __future__ import annotations

from owl_jax.errors import UserError
from owl_jax.models.config import (
    AbstractorConfig,
    BloomConfig,
    LlamaConfig,
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

# Small enough for two CPU cores (configs/demo). A patch is a place of the scenes' grid. The queries
# start apart, which a short training needs.
DEMONSTRATION = OwlConfig(
    vision=VisionConfig(
        image_size=48,
        patch_size=16,
        hidden_size=128,
        intermediate_size=256,
        num_layers=2,
        num_heads=2,
        temporal=True,
    ),
    abstractor=AbstractorConfig(
        num_query_tokens=12,
        hidden_size=128,
        mlp_size=256,
        num_layers=2,
        num_heads=2,
        temporal=True,
        query_stddev=0.02,
    ),
    llm=LlamaConfig(
        vocab_size=768,
        hidden_size=128,
        intermediate_size=336,
        num_layers=3,
        num_heads=2,
        num_kv_heads=2,
        max_positions=1024,
    ),
    lora=LoraConfig(rank=8, alpha=32.0, dropout=0.0),
)


def variant(name: str) -> OwlConfig:
    """A released variant without adapter. Raises UserError for an unknown name."""
    if name not in VARIANTS:
        raise UserError(f"unknown variant {name!r}: choose one of {', '.join(VARIANTS)}")
    return VARIANTS[name]
