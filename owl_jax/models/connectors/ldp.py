"""MobileVLM V2's connector, LDPv2: two point-wise layers, 2 x 2 pooling, a positional convolution.

Letters: N media, T frames, P patches, D encoder width, F MLP width, E language width.

Source: MobileVLM V2 (arXiv 2402.03766, section 3.3). A quarter of the encoder's tokens remain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from owl_jax.models.bounds import Size
from owl_jax.models.compute import Compute
from owl_jax.models.layers import Projection, constant_init, normal_init
from owl_jax.models.parts import ConnectorPart, Path, VisionPart, prefix_problems
from owl_jax.models.transforms import DepthwiseConvolution, Same
from owl_jax.models.weight_names import Row, weight_and_bias

_POOLED = 2  # patches along each side of a pooled token
_KERNEL = 3  # side of the convolution's kernel


@dataclass(frozen=True)
class LdpConfig(ConnectorPart):
    """LDPv2. `hidden_size` is the width between the two point-wise layers.

    In MobileVLM V2 it is the language model's width.
    """

    hidden_size: Size = 2048
    architecture: Literal["ldp"] = "ldp"

    def build(self, vision: VisionPart, language_width: int, compute: Compute) -> Ldp:
        return Ldp(self, vision.grid, language_width, compute)

    def num_tokens(self, vision: VisionPart, frames: int) -> int:
        return frames * (math.prod(vision.grid) // _POOLED**2)

    def problems(self, where: str) -> list[str]:
        return []

    def mismatches(self, vision: VisionPart, language_width: int) -> list[str]:
        problems = prefix_problems(self, vision)
        rows, columns = vision.grid
        if rows % _POOLED or columns % _POOLED:
            problems.append(
                f"connector ldp pools {_POOLED} x {_POOLED} patches, but the encoder gives {rows} "
                f"x {columns}; choose another vision.image_size"
            )
        return problems

    def num_parameters(self) -> float:
        return float(self.hidden_size**2)

    def tokens_through(self, path: Path, vision: VisionPart, frames: int) -> int:
        if "position" in path:
            return self.num_tokens(vision, frames)
        return frames * vision.tokens_per_frame

    def attention_flops(self, vision: VisionPart, frames: int) -> float:
        return 0.0

    def weight_rows(self) -> list[Row]:
        """The authors' tensor names."""
        projector, position = "model.mm_projector", "connector/position"
        return [
            *weight_and_bias(f"{projector}.mlp.mlp.0", "connector/up"),
            *weight_and_bias(f"{projector}.mlp.mlp.2", "connector/down"),
            Row(f"{projector}.peg.peg.0.weight", f"{position}/kernel", DepthwiseConvolution()),
            Row(f"{projector}.peg.peg.0.bias", f"{position}/bias", Same()),
        ]


class Ldp(nn.Module):
    """[N, T, P, D] encoded frames -> [N, T * P / 4, E], tokens of the language model."""

    config: LdpConfig
    grid: tuple[int, int]
    language_width: int
    compute: Compute

    @nn.compact
    def __call__(self, encoded: jax.Array) -> jax.Array:
        N, T, P, D = encoded.shape
        rows, columns = self.grid
        embed, mlp = {"embed": self.language_width}, {"mlp": self.config.hidden_size}
        biased = partial(Projection, use_bias=True, dtype=self.compute.dtype)
        x = encoded.reshape(N * T, P, D)
        x = nn.with_logical_constraint(x, ("batch", "length", "act_embed"))
        x = nn.gelu(biased({"vision_embed": D}, mlp, name="up")(x), approximate=False)
        x = biased(mlp, embed, name="down")(x)
        pooled = (rows // _POOLED, _POOLED, columns // _POOLED, _POOLED)
        x = x.reshape(N * T, *pooled, -1).mean(axis=(2, 4))
        x += PositionalConvolution(self.compute, name="position")(x)
        return x.reshape(N, -1, self.language_width)


class PositionalConvolution(nn.Module):
    """A depth-wise 3 x 3 convolution that keeps the size: [N, rows, columns, E]."""

    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        E, dtype, k = x.shape[-1], self.compute.dtype, _KERNEL
        kernel = self.param("kernel", normal_init((None, None, "embed")), (k, k, E)).astype(dtype)
        bias = self.param("bias", constant_init(0.0, ("embed",)), (E,)).astype(dtype)
        rows, columns = x.shape[1:3]
        margin = (k // 2, k // 2)
        padded = jnp.pad(x, ((0, 0), margin, margin, (0, 0)))
        shifted = (
            padded[:, i : i + rows, j : j + columns] * kernel[i, j]
            for i in range(k)
            for j in range(k)
        )
        return sum(shifted, start=bias)
