"""Adapts a small model to questions about pictures of your own, on a few CPU cores.

    python -m owl_jax.train --config=examples/own_pictures.py:MODEL --workdir=DIR \\
        "--config.data.mixture=(('train.jsonl', 1.0),)"

MODEL is a directory without an adapter. own_pictures.ipynb makes it from the demonstration's model
and the JSON Lines from tables of questions, and measures and serves the result.
"""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from owl_jax.checkpoint.model_directory import read_config
from owl_jax.models.lora import LoraConfig
from owl_jax.training.config import small_config


def get_config(model: str) -> ConfigDict:
    base = read_config(Path(model))
    projections = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    lora = LoraConfig(rank=32, alpha=64.0, dropout=0.0, targets=projections)
    config = small_config(dataclasses.replace(base, lora=lora))
    config.steps = 1500
    config.batch_size = 16
    config.init.vision = config.init.connector = config.init.llm = model
    config.rules = (
        ("lora/.*", "lora"),
        (".*", "frozen"),
    )
    config.recipes.lora = {"learning_rate": 3e-3, "warmup_steps": 25, "b2": 0.98}
    config.data.pack = True
    config.data.sequence_length = 128
    config.data.image_slots = 4
    config.log_every = 50
    return config
