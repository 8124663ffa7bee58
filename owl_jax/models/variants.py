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

# Small enough for two CPU cores (configs/demo). A patch is a place of the scenes' grid. Positions
# and queries start far apart: a short training cannot pull them apart by itself.
DEMONSTRATION = OwlConfig(
    vision=VisionConfig(
        image_size=32,
        patch_size=16,
        hidden_size=96,
        intermediate_size=192,
        num_layers=2,
        num_heads=4,
        temporal=True,
        position_stddev=1.0,
    ),
    abstractor=AbstractorConfig(
        num_query_tokens=6,
        hidden_size=96,
        mlp_size=192,
        num_layers=2,
        num_heads=4,
        temporal=True,
        query_stddev=0.2,
    ),
    llm=LlamaConfig(
        vocab_size=768,
        hidden_size=96,
        intermediate_size=256,
        num_layers=3,
        num_heads=4,
        num_kv_heads=4,
        max_positions=1024,
    ),
    lora=LoraConfig(
        rank=32,
        alpha=64.0,
        dropout=0.0,
        targets=(
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ),
    ),
)


def variant(name: str) -> OwlConfig:
    """A released variant without adapter. Raises UserError for an unknown name."""
    if name not in VARIANTS:
        raise UserError(f"unknown variant {name!r}: choose one of {', '.join(VARIANTS)}")
    return VARIANTS[name]
