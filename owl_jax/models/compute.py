"""Settings of the computation that are not part of the model (config.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp


@dataclass(frozen=True)
class Compute:
    """How a model is computed, independent of its weights.

    dtype: of activations and matmuls; norms, softmax and loss stay in float32.
    attention: an implementation's name, or "auto" (models/attention/dispatch.py).
    remat: the policy for the language model's layers (models/remat.py).
    media_remat: the policy for the vision encoder and the connector.
    scan_layers: scan over stacked weights instead of unrolling (models/stack.py).
    loss_tile: tokens of each sequence whose logits are in memory at once; 0: all
      (training/objectives/cross_entropy.py).
    cache_dtype: of cached keys and values: "auto", that of the computation, or "int8", with scales
      (models/int8_cache.py).
    """

    dtype: Any = jnp.float32
    attention: str = "auto"
    remat: str = "none"
    media_remat: str = "none"
    scan_layers: bool = True
    loss_tile: int = 0
    cache_dtype: str = "auto"
