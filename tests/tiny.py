"""A tiny model directory with a tokenizer, fresh weights: for what needs words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.model_directory import save_model
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.text.tokenizer import train_sentencepiece
from owl_jax.text.turns import SYSTEM

NUM_SPECIAL = 259  # unk, bos, eos and a piece for each byte

CONFIG = OwlConfig(
    vision=ClipConfig(28, 14, 16, 32, num_layers=1, num_heads=2, temporal=True),
    connector=AbstractorConfig(4, 16, 256, num_layers=1, num_heads=2, temporal=True),
    llm=LlamaConfig(340, 16, 32, num_layers=1, num_heads=2, num_kv_heads=2, max_positions=192),
)


def write_tokenizer(directory: Path, vocab_size: int = CONFIG.llm.vocab_size) -> Path:
    """Writes a tokenizer of so many pieces into `directory`."""
    lines = [SYSTEM, "Human: What do you see?", "AI: "]
    train_sentencepiece(lines, vocab_size, directory / "tokenizer.model")
    return directory


def write_model(directory: Path, config: OwlConfig = CONFIG, tokenizer: Path | None = None) -> Path:
    """Writes `directory`, in our own format, with a tokenizer that fills the vocabulary.

    tokenizer: a directory that has one; by default a new one is trained.
    """
    words = tokenizer or write_tokenizer(
        directory.with_name(f"{directory.name}-tokenizer"), config.llm.vocab_size
    )
    # Drawn by NumPy: nothing to compile. Small embeddings, large kernels: answers depend on all of
    # what is asked and shown.
    random = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], x: Any) -> np.ndarray:
        name = path[-1].key
        if name in ("scale", "bias"):
            return np.full(x.shape, name == "scale", np.float32)
        fan_in = np.prod(x.shape) / x.shape[-1]
        return random.normal(0, 0.1 if name == "embedding" else 2 * fan_in**-0.5, x.shape).astype(
            "float32"
        )

    params = jax.tree_util.tree_map_with_path(draw, abstract_params(config))
    # Special and byte pieces are hardly ever the likeliest: answers are words and go on.
    if "lm_head" in params["llm"]:
        params["llm"]["lm_head"]["kernel"][:, :NUM_SPECIAL] = 0
    save_model(directory, config, params, "orbax", words)
    return directory
