"""Stage 2 of the released -ft weights: trains the whole language model, without LoRA.

    python -m owl_jax.train --config=configs/stage2_full.py --workdir=DIR

Freezes the vision tower and abstractor, like the original. Float32 masters, gradients and two
moments of 6.7 B parameters take 108 GB, sharded over all devices. Needs the same weights as
configs/stage2.py, and conversations in any form of docs/data.md in data/instructions.jsonl.
"""

from ml_collections import ConfigDict

from owl_jax.models.families.mplug_owl import variant
from owl_jax.training.config import base_config


def get_config(name: str = "llama") -> ConfigDict:
    config = base_config(variant(name))
    config.steps = 4_236
    config.batch_size = 64  # packed sequences of about four conversations: the recipe's 256
    config.init.vision = config.init.connector = config.init.llm = f"weights/mplug-owl-{name}"
    config.tokenizer = f"weights/mplug-owl-{name}"
    config.rules = (
        ("llm/.*", "llm"),
        ("(vision|connector)/.*", "frozen"),
    )
    config.recipes.llm = {
        "learning_rate": 2e-5,
        "schedule": "linear",
        "warmup_steps": 50,
        "weight_decay": 1e-4,
    }
    config.data.image_slots = 2
    config.data.mixture = (("data/instructions.jsonl", 1.0),)
    return config
