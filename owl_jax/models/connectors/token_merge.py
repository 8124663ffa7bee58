"""MiniGPT-v2's connector: neighbouring tokens are concatenated in width, then one linear layer.

Letters: N media, T frames, P patches, D encoder width, E language width, M tokens that become one.

Source: MiniGPT-v2 (arXiv 2310.09478, section 2.1): every M tokens in reading order become one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import flax.linen as nn
import jax
from msgspec import Meta

from owl_jax.models.compute import Compute
from owl_jax.models.layers import Projection
from owl_jax.models.parts import ConnectorPart, Path, VisionPart, prefix_problems
from owl_jax.models.weight_names import Row, weight_and_bias


@dataclass(frozen=True)
class TokenMergeConfig(ConnectorPart):
    """`merged` neighbours in a row of patches become one token, by one linear layer."""

    merged: Annotated[int, Meta(ge=1, le=1024)] = 4
    architecture: Literal["token_merge"] = "token_merge"

    def build(self, vision: VisionPart, language_width: int, compute: Compute) -> TokenMerge:
        return TokenMerge(self, language_width, compute)

    def num_tokens(self, vision: VisionPart, frames: int) -> int:
        return frames * (math.prod(vision.grid) // self.merged)

    def problems(self, where: str) -> list[str]:
        return []

    def mismatches(self, vision: VisionPart, language_width: int) -> list[str]:
        problems = prefix_problems(self, vision)
        rows, columns = vision.grid
        if columns % self.merged:
            problems.append(
                f"connector.merged {self.merged} does not divide the {columns} columns of the "
                f"encoder's {rows} x {columns} patches; choose another vision.image_size or "
                "connector.merged"
            )
        return problems

    def num_parameters(self) -> float:
        return 0.0  # one matrix, whose sizes other parts limit

    def tokens_through(self, path: Path, vision: VisionPart, frames: int) -> int:
        return self.num_tokens(vision, frames)

    def attention_flops(self, vision: VisionPart, frames: int) -> float:
        return 0.0

    def weight_rows(self) -> list[Row]:
        """The authors' names."""
        return weight_and_bias("llama_proj", "connector/project")


class TokenMerge(nn.Module):
    """[N, T, P, D] encoded frames -> [N, T * P / M, E], tokens of the language model."""

    config: TokenMergeConfig
    language_width: int
    compute: Compute

    @nn.compact
    def __call__(self, encoded: jax.Array) -> jax.Array:
        x = encoded.reshape(encoded.shape[0], -1, self.config.merged * encoded.shape[-1])
        x = nn.with_logical_constraint(x, ("batch", "length", "act_embed"))
        # The input axis has no logical name: "embed" already uses the mesh axis it would map to.
        axes = {None: x.shape[-1]}, {"embed": self.language_width}
        return Projection(*axes, use_bias=True, dtype=self.compute.dtype, name="project")(x)
