"""Adapts a small model to pictures of your own, on a few CPU cores: see own_pictures.ipynb.

    python -m owl_jax.train --config=examples/own_pictures.py:MODEL --workdir=DIR \\
        "--config.data.mixture=(('mine.jsonl', 1.0),)"

MODEL is a directory without an adapter. Everything is trained: your pictures look unlike those that
the small model has seen, and your answers may have words that it has never written. An adapter
cannot hold that, so the result is a whole model.
"""

from pathlib import Path

from ml_collections import ConfigDict

from owl_jax.checkpoint.model_directory import read_config
from owl_jax.errors import UserError
from owl_jax.training.config import small_config


def get_config(model: str) -> ConfigDict:
    base = read_config(Path(model))
    if base.lora is not None:
        raise UserError(
            f"{model} holds an adapter; merge it: python -m owl_jax.convert --merge "
            f"--source={model} --target=DIR --format=orbax"
        )
    config = small_config(base)
    config.steps = 2500
    config.batch_size = 8
    config.mesh.update({"data": -1, "fsdp": 1})
    config.init.vision = config.init.connector = config.init.llm = model
    config.rules = (
        ("llm/(embed_tokens|lm_head)/.*", "words"),
        (".*", "layers"),
    )
    config.recipes.words = {"learning_rate": 2e-3, "warmup_steps": 25, "b2": 0.98}
    config.recipes.layers = {
        "optimizer": "muon",
        "learning_rate": 1.5e-3,
        "warmup_steps": 25,
        "b2": 0.98,
    }
    config.data.pack = True
    config.data.sequence_length = 256
    config.data.image_slots = 4
    config.log_every = 50
    return config
