"""Demonstration, stage 0: trains a small LLaMA on the embedded data set's text only.

    python -m owl_jax.train --config=configs/demo/stage0.py --workdir=DIR

The result stands in for a pretrained language model. `make demo` runs this stage first.
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
    config.steps = 2600
    config.batch_size = 8
    config.mesh.update({"data": -1, "fsdp": 1})
    config.tokenizer = f"{CONFIGS}/demo/tokenizer"
    config.rules = (
        ("llm/(embed_tokens|lm_head)/.*", "words"),
        ("llm/.*", "layers"),
        ("(vision|connector)/.*", "frozen"),
    )
    config.recipes.words = {"learning_rate": 2e-3, "warmup_steps": 25, "b2": 0.98}
    config.recipes.layers = {
        "optimizer": "muon",
        "learning_rate": 1.5e-3,
        "warmup_steps": 25,
        "weight_decay": 0.01,
        "b2": 0.98,
    }
    config.data.sequence_length = 192
    config.data.image_slots = 0
    config.data.pack = True
    kinds = {
        "text_description": 2.2,
        "text_scene": 2.6,
        "text_facts": 0.4,
        "text_two_images": 0.8,
        "text_video": 0.4,
    }
    abilities = {"position": 4.0, "comparison": 3.0}  # the last that are learned
    config.data.mixture = ((SyntheticSource(kinds, turns=5, abilities=abilities), 1.0),)
    return config
