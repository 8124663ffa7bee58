"""mPLUG-Owl2, stage 2: trains everything on instructions, with images of 448 x 448 pixels.

    python -m owl_jax.train --config=configs/owl2/stage2.py --workdir=DIR

The paper's recipe (arXiv 2311.04257): batch 256, peak learning rate 2e-5, one epoch, text-only and
multimodal instructions together; optimizer as in stage 1. Float32 masters, gradients and two
moments of the 8.2 B parameters take 131 GB, sharded over all devices. Needs a stage 1 model
directory, its tokenizer and the data, in any form of docs/data.md:

    data/llava.json     150k (liuhaotian/LLaVA-Instruct-150K, llava_instruct_150k.json), with the
                        COCO images in data/train2017
    data/vicuna.jsonl   conversations (ShareGPT), text-only

A packed sequence of 2,048 tokens has about four conversations and up to four images.
"""

from ml_collections import ConfigDict

from owl_jax.models.families.mplug_owl2 import MPLUG_OWL2_7B
from owl_jax.training.config import base_config


def get_config() -> ConfigDict:
    config = base_config(MPLUG_OWL2_7B)
    config.model.vision.layer_norm_eps = 1e-5  # CLIP's, which stage 1 starts from; released: 1e-6
    config.epochs = 1.0
    config.steps = 10_000  # only for owl_jax.compile, which reads no data
    config.batch_size = 64  # about four conversations per packed sequence: the recipe's 256
    config.init.vision = config.init.connector = config.init.llm = "weights/mplug-owl2-stage1"
    config.tokenizer = "weights/mplug-owl2-stage1"
    config.rules = ((".*", "all"),)
    config.recipes.all = {
        "learning_rate": 2e-5,
        "schedule": "cosine",
        "warmup_steps": 50,
        "weight_decay": 0.1,
        "b1": 0.9,
        "b2": 0.98,
        "eps": 1e-6,
    }
    config.data.sequence_length = 2_048
    config.data.image_slots = 4
    config.data.mixture = (
        ("data/llava.json", "1 epoch", "data/train2017"),
        ("data/vicuna.jsonl", "1 epoch"),
    )
    return config
