"""LLaVA-1.5, stage 2: trains the connector and the whole language model on conversations.

    python -m owl_jax.train --config=configs/llava/stage2.py --workdir=DIR

The published recipe (arXiv 2310.03744; haotian-liu/LLaVA, scripts/v1_5/finetune.sh): one epoch over
665k conversations in Vicuna's format, batch 128, AdamW without weight decay, a cosine schedule that
peaks at 2e-5 after 3 % of the steps. Images are padded to a square. Float32 masters, gradients and
two moments of the language model take 108 GB, sharded over all devices. Needs the weights of stage
1 (its WORKDIR/model has the connector), and the conversations with their images:

    weights/clip-vit-large-patch14-336, weights/vicuna-7b-v1.5, runs/llava/stage1/model
    data/llava_v1_5_mix665k.json   (liuhaotian/LLaVA-Instruct-150K), images in data/llava_mix
"""

from ml_collections import ConfigDict

from owl_jax.models.families.llava import LLAVA_7B
from owl_jax.training.config import base_config


def get_config() -> ConfigDict:
    config = base_config(LLAVA_7B)
    config.epochs = 1.0
    config.steps = 5_197  # only for owl_jax.compile, which reads no data
    config.batch_size = 64  # about two conversations per packed sequence: the recipe's 128
    config.init.vision = "weights/clip-vit-large-patch14-336"
    config.init.connector = "runs/llava/stage1/model"
    config.init.llm = config.tokenizer = "weights/vicuna-7b-v1.5"
    config.rules = (
        ("(connector|llm)/.*", "trained"),
        ("vision/.*", "frozen"),
    )
    config.recipes.trained = {
        "learning_rate": 2e-5,
        "warmup_steps": 156,
        "schedule": "cosine",
    }
    config.data.image_slots = 3
    config.data.mixture = (("data/llava_v1_5_mix665k.json", "1 epoch", "data/llava_mix"),)
    return config
