"""A connector's module with weights drawn at random, for the tests of connectors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from owl_jax.models.compute import Compute
from owl_jax.models.parts import ConnectorPart, VisionPart
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.vision.siglip import SiglipConfig

E = 24  # the language model's width
GRID = SiglipConfig(16, 4, 8, 12, num_layers=1, num_heads=2)  # 4 x 4 patches
CLASS_TOKEN = ClipConfig(16, 4, 8, 12, num_layers=1, num_heads=2)


def draw(connector: ConnectorPart, vision: VisionPart) -> Any:
    """float32 weights, none of them 0 or 1."""
    module = connector.build(vision, E, Compute())
    encoded = jnp.zeros((1, 1, vision.tokens_per_frame, vision.hidden_size))
    shapes = nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(0), encoded)["params"])
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: random.normal(0, 0.3, x.shape).astype(np.float32), shapes)


def frames_of(vision: VisionPart, media: int = 2, frames: int = 3) -> np.ndarray:
    """float32[N, T, S, D], as if encoded."""
    shape = (media, frames, vision.tokens_per_frame, vision.hidden_size)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def connect(
    connector: ConnectorPart, vision: VisionPart, params: Any, encoded: np.ndarray
) -> np.ndarray:
    module = connector.build(vision, E, Compute())
    return np.asarray(jax.jit(module.apply)({"params": params}, encoded))


def flops(connector: ConnectorPart, vision: VisionPart, params: Any, frames: int) -> float:
    """Of one medium, as training/flops.py sums them."""
    total = connector.attention_flops(vision, frames)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        keys = tuple(key.key for key in path)
        if keys[-1] == "kernel":
            total += 2 * leaf.size * connector.tokens_through(keys, vision, frames)
    return total
