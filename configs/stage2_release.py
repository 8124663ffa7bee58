"""Stage 2 of the released script: trains LoRA only, everything else frozen.

    python -m owl_jax.train --config=configs/stage2_release.py --workdir=DIR

As in pipeline/train.py of X-PLUG/mPLUG-Owl and its script: r 8, alpha 32, dropout 0.05 on q_proj
and v_proj, 2,048 tokens, 4,236 steps, 50 of them warm-up, weight decay 1e-4, clipping at 1.0. The
script asks for a cosine schedule, a minimum rate and other betas, but they never reach its
optimizer: it ran with linear decay to zero and betas 0.9 and 0.999, and so does this config. Needs
the weights of configs/stage2.py, and conversations in data/instructions.jsonl, in any form of
docs/data.md.
"""

import dataclasses

from ml_collections import ConfigDict

from owl_jax.models.families.mplug_owl import LORA, variant
from owl_jax.training.config import base_config


def get_config(name: str = "llama") -> ConfigDict:
    config = base_config(dataclasses.replace(variant(name), lora=LORA[name]))
    config.steps = 4_236
    config.batch_size = 64  # packed sequences of about four conversations: the recipe's 256
    config.init.vision = config.init.connector = config.init.llm = f"weights/mplug-owl-{name}"
    config.tokenizer = f"weights/mplug-owl-{name}"
    config.rules = (
        ("lora/.*", "lora"),
        (".*", "frozen"),
    )
    config.recipes.lora = {
        "learning_rate": 2e-5,
        "schedule": "linear",
        "warmup_steps": 50,
        "weight_decay": 1e-4,
    }
    config.data.image_slots = 2
    config.data.mixture = (("data/instructions.jsonl", 1.0),)
    return config
