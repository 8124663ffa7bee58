"""Demonstration, stage 1: trains vision tower and abstractor on captions under a frozen LLaMA.

    python -m owl_jax.train --config=configs/demo/stage1.py --workdir=DIR \\
        --config.init.llm=STAGE_0/model

A small configs/stage1.py. Without --config.init it starts from random weights and learns little.
"""

import dataclasses

from ml_collections import ConfigDict

from owl_jax.demo.model import DEMONSTRATION
from owl_jax.demo.synthetic import SyntheticSource
from owl_jax.shipped import CONFIGS
from owl_jax.training.config import small_config


def get_config() -> ConfigDict:
    # Only stage 2 trains LoRA; here it would take a quarter of each step's time.
    config = small_config(dataclasses.replace(DEMONSTRATION, lora=None))
    config.steps = 1200
    config.batch_size = 8
    config.mesh.update({"data": -1, "fsdp": 1})
    config.tokenizer = f"{CONFIGS}/demo/tokenizer"
    config.rules = (
        ("(vision|connector)/.*", "visual"),
        ("llm/.*", "frozen"),
    )
    config.recipes.visual = {
        "optimizer": "muon",
        "learning_rate": 4e-3,
        "warmup_steps": 25,
        "weight_decay": 0.01,
        "b2": 0.98,
    }
    config.data.sequence_length = 192
    config.data.pack = True
    config.data.image_slots = 5
    config.data.video_slots = 1
    kinds = {"caption": 4.0, "video_caption": 1.0}
    config.data.mixture = ((SyntheticSource(kinds, image_size=40), 1.0),)
    return config
