"""Models and adapters as NumPy arrays, read whole: small ones, to compare."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from owl_jax.checkpoint.adapter import open_adapter
from owl_jax.checkpoint.lazy_arrays import read
from owl_jax.checkpoint.model_directory import open_model, open_subtrees
from owl_jax.models.config import OwlConfig
from owl_jax.models.lora import LoraConfig


def load_model(directory: Path, dtype: Any) -> tuple[OwlConfig, dict[str, Any]]:
    """Reads what `open_model` opens: (its config, its tree as NumPy arrays of `dtype`)."""
    opened = open_model(directory)
    return opened.config, _read(opened.params, dtype)


def read_subtrees(directory: Path, names: list[str], dtype: Any) -> dict[str, Any]:
    """Reads what `open_subtrees` opens."""
    return _read(open_subtrees(directory, names).params, dtype)


def read_adapter(directory: Path, config: OwlConfig, dtype: Any) -> tuple[LoraConfig, dict]:
    """Reads what `open_adapter` opens: (its config, the tree's branch "lora")."""
    lora, opened = open_adapter(directory, config)
    return lora, _read(opened, dtype)


def _read(opened: Any, dtype: Any) -> Any:
    return jax.tree.map(partial(read, dtype=jnp.dtype(dtype)), opened)
