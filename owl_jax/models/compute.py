"""How a model is computed, as opposed to what it is (config.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp


@dataclass(frozen=True)
class Compute:
    """How the model is computed; changes no weight.

    dtype: of activations and matmuls; norms, softmax and loss stay in float32.
    attention: "auto" chooses by platform, or an implementation's name
      (models/attention/dispatch.py).
    remat: what the backward pass keeps of a language model's layer (models/remat.py).
    media_remat: the same of vision encoder and connector.
    scan_layers: one compiled layer for all (stacked weights), or one per layer (see stack.py).
    loss_tile: tokens of each sequence whose logits exist at a time; 0: all
      (training/objectives/cross_entropy.py).
    """

    dtype: Any = jnp.float32
    attention: str = "auto"
    remat: str = "none"
    media_remat: str = "none"
    scan_layers: bool = True
    loss_tile: int = 0
