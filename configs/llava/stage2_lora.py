"""LLaVA-1.5, stage 2 with LoRA: trains the connector and an adapter of the language model.

    python -m owl_jax.train --config=configs/llava/stage2_lora.py --workdir=DIR

The published recipe (haotian-liu/LLaVA, scripts/v1_5/finetune_lora.sh): as configs/llava/stage2.py,
but with LoRA of rank 128 and alpha 256 on all projections of the language model. Learning rates are
2e-4 for LoRA and 2e-5 for the connector. In bfloat16 the frozen 7B model takes 14 GB, sharded over
all devices.
"""

import dataclasses

from ml_collections import ConfigDict

from owl_jax.models.families.llava import LLAVA_7B, LLAVA_LORA
from owl_jax.training.config import base_config


def get_config() -> ConfigDict:
    config = base_config(dataclasses.replace(LLAVA_7B, lora=LLAVA_LORA))
    config.epochs = 1.0
    config.steps = 5_197  # only for owl_jax.compile, which reads no data
    config.batch_size = 64  # about two conversations per packed sequence: the recipe's 128
    config.init.vision = "weights/clip-vit-large-patch14-336"
    config.init.connector = "runs/llava/stage1/model"
    config.init.llm = config.tokenizer = "weights/vicuna-7b-v1.5"
    config.rules = (
        ("lora/.*", "lora"),
        ("connector/.*", "connector"),
        ("(vision|llm)/.*", "frozen"),
    )
    recipe = {"warmup_steps": 156, "schedule": "cosine"}
    config.recipes.lora = {"learning_rate": 2e-4, **recipe}
    config.recipes.connector = {"learning_rate": 2e-5, **recipe}
    config.data.image_slots = 3
    config.data.mixture = (("data/llava_v1_5_mix665k.json", "1 epoch", "data/llava_mix"),)
    return config
