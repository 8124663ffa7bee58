"""Rotary positions (arXiv 2104.09864), plain or scaled for more positions than in pre-training.

Letters: B batch, L tokens, H heads, K head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from owl_jax.errors import UserError, shown
from owl_jax.models.bounds import Length, Theta
from owl_jax.models.hf_config import Source

RopeType = Literal["default", "linear", "llama3"]
TYPES: tuple[RopeType, ...] = ("default", "linear", "llama3")


Factor = Annotated[float, Meta(gt=0, le=1e6)]


@dataclass(frozen=True)
class RopeScaling:
    """How the angles are scaled; the fields are those of rope_scaling in config.json.

    linear: all angles are divided by `factor` (arXiv 2306.15595).
    llama3: angles that turn fewer than `low_freq_factor` times over the `original_positions` of
      pre-training are divided by `factor`, those that turn more than `high_freq_factor` times are
      kept, and those in between are interpolated (Llama 3.1).
    """

    type: RopeType = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192

    def scale(self, frequencies: np.ndarray) -> np.ndarray:
        """Scales float32 angles per position."""
        if self.type == "default":
            return frequencies
        kept = np.zeros_like(frequencies)
        if self.type == "llama3":
            turns = self.original_positions * frequencies / np.float32(2 * math.pi)
            low, high = self.low_freq_factor, self.high_freq_factor
            kept = np.clip((turns - low) / (high - low), 0, 1)
        return (kept + (1 - kept) / self.factor).astype(np.float32) * frequencies


PLAIN = RopeScaling()


class HfRope(Struct, frozen=True):
    """rope_parameters (transformers 5) and rope_scaling (4)."""

    rope_type: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    rope_theta: Theta | UnsetType = UNSET
    partial_rotary_factor: float = 1.0
    factor: Factor | UnsetType = UNSET
    low_freq_factor: Factor | UnsetType = UNSET
    high_freq_factor: Factor | UnsetType = UNSET
    original_max_position_embeddings: Length | UnsetType = UNSET


def read_rope(hf: Any, source: Source, owner: str) -> tuple[float, RopeScaling]:
    """The base and the scaling of rotary positions.

    hf: the values of a config.json, with rope_theta, partial_rotary_factor, rope_parameters and
      rope_scaling. owner: the model, for messages.

    Raises UserError for partial rotary positions, other types, and values that disagree.
    """
    thetas, scalings = [hf.rope_theta], set()
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(hf, name)
        if rope is None:
            continue
        source.expect("partial_rotary_factor", rope.partial_rotary_factor, 1.0, owner)
        thetas.append(rope.rope_theta)
        scalings.add(_scaling(rope, source, name))
    source.expect("partial_rotary_factor", hf.partial_rotary_factor, 1.0, owner)
    found = {theta for theta in thetas if not isinstance(theta, UnsetType)}
    if len(found) > 1:
        raise UserError(f"{source.path}: two values of rope_theta, {sorted(found)}; expected one")
    if len(scalings) > 1:
        raise UserError(f"{source.path}: rope_parameters and rope_scaling differ; expected one")
    return found.pop() if found else 10000.0, scalings.pop() if scalings else PLAIN


def _scaling(rope: HfRope, source: Source, section: str) -> RopeScaling:
    kind = next((name for name in (rope.rope_type, rope.type) if name is not UNSET), "default")
    if kind not in TYPES:
        raise UserError(
            f"{source.path}: rope of type {shown(kind)}; expected {', '.join(TYPES[:-1])} or "
            f"{TYPES[-1]}"
        )
    names = {
        "default": (),
        "linear": ("factor",),
        "llama3": (
            *("factor", "low_freq_factor", "high_freq_factor"),
            "original_max_position_embeddings",
        ),
    }[kind]
    values = [getattr(rope, name) for name in names]
    if missing := [name for name, value in zip(names, values, strict=True) if value is UNSET]:
        raise UserError(
            f"{source.path}: no value for {source.key(section)}.{missing[0]}, which rope of type "
            f"{shown(kind)} needs"
        )
    return RopeScaling(kind, *values)


def rotary_tables(
    positions: jax.Array, width: int, theta: float, scaling: RopeScaling = PLAIN
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rotary angles, float32[B, L, 1, K] each (arXiv 2104.09864)."""
    frequencies = scaling.scale(theta ** (-np.arange(0, width, 2, dtype=np.float32) / width))
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    # A matmul duplicates the half width, because XLA materialises a matmul's input. Otherwise XLA
    # on CPU fuses the cosines into every unrolled layer and recomputes them for every head.
    duplicate = np.tile(np.eye(width // 2, dtype=np.float32), 2)
    cos, sin = (jnp.matmul(f(angles), duplicate, precision="highest") for f in (jnp.cos, jnp.sin))
    return cos, sin


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates [B, L, H, K] in float32; pairs are (i, i + K / 2), as in the released weights.

    A matmul with a constant matrix swaps the halves. On TPU this is faster than slicing and
    concatenation.
    """
    half = x.shape[-1] // 2
    eye = np.eye(half, dtype=np.float32)
    swap = np.block([[np.zeros_like(eye), eye], [-eye, np.zeros_like(eye)]])
    wide = x.astype(jnp.float32)
    swapped = jnp.matmul(x, swap.astype(x.dtype), preferred_element_type=jnp.float32)
    return (wide * cos + swapped * sin).astype(x.dtype)
