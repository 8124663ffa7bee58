"""Overfits a small mPLUG-Owl on OwlEval: its images, its questions and one system's answers.

    python -m owl_jax.train --config=configs/demo/owleval.py:DIR --workdir=WORKDIR

DIR is OwlEval as published (X-PLUG/mPLUG-Owl, OwlEval), which is not part of this project: `cases/`
with the images and `answer/mPLUG_Owl_7b_answer.jsonl`. The model memorises 82 answers, which only
shows that every part handles real images and free text. Answers longer than a sequence are cut.
"""

import dataclasses

from ml_collections import ConfigDict

from owl_jax.demo.model import DEMONSTRATION
from owl_jax.shipped import CONFIGS
from owl_jax.training.config import small_config


def get_config(directory: str = "OwlEval") -> ConfigDict:
    config = small_config(dataclasses.replace(DEMONSTRATION, lora=None))
    config.steps = 600
    config.batch_size = 8
    config.tokenizer = f"{CONFIGS}/demo/tokenizer"
    config.rules = (
        ("llm/(embed_tokens|lm_head)/.*", "words"),
        (".*", "layers"),
    )
    config.recipes.words = {"learning_rate": 8e-3, "warmup_steps": 25, "b2": 0.98}
    config.recipes.layers = {
        "optimizer": "muon",
        "learning_rate": 4e-3,
        "warmup_steps": 25,
        "b2": 0.98,
    }
    config.data.sequence_length = 512
    config.data.mixture = ((f"{directory}/answer/mPLUG_Owl_7b_answer.jsonl", 1.0),)
    config.data.media_root = f"{directory}/cases"
    return config
