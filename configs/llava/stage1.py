"""LLaVA-1.5, stage 1: trains the connector on image-caption pairs.

    python -m owl_jax.train --config=configs/llava/stage1.py --workdir=DIR

The published recipe (arXiv 2310.03744; haotian-liu/LLaVA, scripts/v1_5/pretrain.sh): one epoch over
558k pairs, batch 256, AdamW without weight decay, a cosine schedule that peaks at 1e-3 after 3 % of
the steps. An image takes 576 tokens, so a packed sequence has up to four pairs. The conversation
format "plain" has captions without roles. Needs CLIP and Vicuna (docs/weights.md), and the pairs
with their images:

    weights/clip-vit-large-patch14-336, weights/vicuna-7b-v1.5
    data/llava_pretrain.jsonl   {"image": "00453/004539375.jpg", "caption": "..."} per line
                                (liuhaotian/LLaVA-Pretrain), images in data/llava_pretrain
"""

import dataclasses

from ml_collections import ConfigDict

from owl_jax.models.families.llava import LLAVA_7B
from owl_jax.training.config import base_config


def get_config() -> ConfigDict:
    config = base_config(dataclasses.replace(LLAVA_7B, conversation="plain"))
    config.epochs = 1.0
    config.steps = 2_180  # only for owl_jax.compile, which reads no data
    config.batch_size = 64  # about four pairs per packed sequence: the recipe's 256
    config.init.vision = "weights/clip-vit-large-patch14-336"
    config.init.llm = config.tokenizer = "weights/vicuna-7b-v1.5"
    config.rules = (
        ("connector/.*", "connector"),
        ("(vision|llm)/.*", "frozen"),
    )
    config.recipes.connector = {
        "learning_rate": 1e-3,
        "warmup_steps": 65,
        "schedule": "cosine",
    }
    config.data.sequence_length = 2_560
    config.data.image_slots = 4
    config.data.mixture = (("data/llava_pretrain.jsonl", "1 epoch", "data/llava_pretrain"),)
    return config
