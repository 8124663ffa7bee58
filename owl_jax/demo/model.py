"""The demonstration's model."""

from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vision.clip import ClipConfig

# Small enough for two CPU cores (configs/demo). Position embeddings and queries get a large initial
# spread, which a short training run could not learn.
DEMONSTRATION = OwlConfig(
    vision=ClipConfig(
        image_size=40,
        patch_size=8,
        hidden_size=96,
        intermediate_size=192,
        num_layers=2,
        num_heads=4,
        temporal=True,
        position_stddev=1.0,
    ),
    connector=AbstractorConfig(
        num_query_tokens=8,
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
