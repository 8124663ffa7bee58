"""Demonstration, stage 2: trains LoRA and abstractor on questions about text and images.

    python -m owl_jax.train --config=configs/demo/stage2.py --workdir=DIR \\
        --config.init.llm=STAGE_1/model --config.init.vision=STAGE_1/model \\
        --config.init.connector=STAGE_1/model

A small configs/stage2.py. Without --config.init it starts from random weights and learns little.
"""

from ml_collections import ConfigDict

from owl_jax.demo.model import DEMONSTRATION
from owl_jax.demo.synthetic import SyntheticSource
from owl_jax.shipped import CONFIGS
from owl_jax.training.config import small_config


def get_config() -> ConfigDict:
    config = small_config(DEMONSTRATION)
    config.steps = 900
    config.batch_size = 8
    config.mesh.update({"data": -1, "fsdp": 1})
    config.tokenizer = f"{CONFIGS}/demo/tokenizer"
    config.rules = (
        ("lora/.*", "lora"),
        ("connector/.*", "connector"),
        ("(vision|llm)/.*", "frozen"),
    )
    config.recipes.lora = {"learning_rate": 1.5e-3, "warmup_steps": 25, "b2": 0.98}
    config.recipes.connector = {
        "optimizer": "muon",
        "learning_rate": 2e-3,
        "warmup_steps": 25,
        "weight_decay": 0.01,
        "b2": 0.98,
    }
    config.data.sequence_length = 256
    config.data.pack = True
    config.data.image_slots = 5
    config.data.video_slots = 1
    kinds = {
        "vqa": 4.0,
        "two_images": 2.0,
        "video": 1.0,
        "text_scene": 1.2,
        "text_facts": 1.2,
    }
    abilities = {"position": 2.0, "comparison": 2.5}  # the last that are learned
    source = SyntheticSource(kinds, image_size=40, turns=6, abilities=abilities)
    config.data.mixture = ((source, 1.0),)
    return config
