"""Adapts a small model to pictures of your own, on a few CPU cores: see own_pictures.ipynb.

    python -m owl_jax.train --config=examples/own_pictures.py:MODEL --workdir=DIR \\
        "--config.data.mixture=(('mine.csv', 1.0),)"

MODEL is a directory, such as the demonstration's runs/demo/stage2/model. As in stage 2, LoRA and
the connector are trained; so is the vision encoder, since your pictures look unlike those that the
model has seen. An adapter cannot hold these, so the result is a whole model.
"""

from pathlib import Path

from ml_collections import ConfigDict

from owl_jax.checkpoint.model_directory import read_config
from owl_jax.training.config import small_config


def get_config(model: str) -> ConfigDict:
    config = small_config(read_config(Path(model)))
    config.steps = 3000
    config.batch_size = 8
    for subtree in config.init:
        config.init[subtree] = model
    config.rules = (
        ("lora/.*", "lora"),
        ("(vision|connector)/.*", "visual"),
        ("llm/.*", "frozen"),
    )
    config.recipes.lora = {"learning_rate": 3e-3, "warmup_steps": 25, "b2": 0.98}
    config.recipes.visual = {
        "optimizer": "muon",
        "learning_rate": 2e-3,
        "warmup_steps": 25,
        "weight_decay": 0.01,
        "b2": 0.98,
    }
    config.data.pack = True
    config.data.sequence_length = 256
    config.data.image_slots = 8
    config.log_every = 50
    return config
