"""LLaVA's connector: an MLP on each token; each encoder token becomes one sequence token.

Letters: N media, T frames, S tokens of an encoded frame, D encoder width, F MLP width, E language
width.

Source: LLaVA-1.5 (arXiv 2310.03744), mm_projector_type mlp2x_gelu; transformers,
LlavaMultiModalProjector.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn
import jax

from owl_jax.models.bounds import Layers, Size
from owl_jax.models.compute import Compute
from owl_jax.models.layers import Projection
from owl_jax.models.parts import ConnectorPart, Path, VisionPart
from owl_jax.models.weight_names import Row, weight_and_bias


@dataclass(frozen=True)
class MlpConfig(ConnectorPart):
    """`num_layers` linear layers of width `hidden_size`, with exact GELU between them.

    LLaVA-1.5 has two, of the language model's width. LLaVA 1 has one, a linear projection.
    """

    hidden_size: Size = 4096
    num_layers: Layers = 2
    architecture: Literal["mlp"] = "mlp"

    def build(self, vision: VisionPart, language_width: int, compute: Compute) -> Mlp:
        return Mlp(self, language_width, compute)

    def num_tokens(self, vision: VisionPart, frames: int) -> int:
        return frames * vision.tokens_per_frame

    def problems(self, where: str) -> list[str]:
        return []

    def mismatches(self, vision: VisionPart, language_width: int) -> list[str]:
        return []

    def num_parameters(self) -> float:
        return float(self.num_layers * self.hidden_size**2)

    def tokens_through(self, path: Path, vision: VisionPart, frames: int) -> int:
        return frames * vision.tokens_per_frame

    def attention_flops(self, vision: VisionPart, frames: int) -> float:
        return 0.0

    def weight_rows(self) -> list[Row]:
        """Transformers' tensor names, as in llava-1.5-7b-hf."""
        return [
            row
            for number in range(1, self.num_layers + 1)
            for row in weight_and_bias(
                f"multi_modal_projector.linear_{number}", f"connector/linear_{number}"
            )
        ]

    def original_weight_rows(self) -> list[Row]:
        """The authors' tensor names, as in llava-v1.5-7b, where odd numbers are GELUs."""
        return [
            row
            for number in range(self.num_layers)
            for row in weight_and_bias(
                f"model.mm_projector.{2 * number}", f"connector/linear_{number + 1}"
            )
        ]


class Mlp(nn.Module):
    """[N, T, S, D] encoded frames -> [N, T * S, E], tokens of the language model."""

    config: MlpConfig
    language_width: int
    compute: Compute

    @nn.compact
    def __call__(self, encoded: jax.Array) -> jax.Array:
        config = self.config
        biased = partial(Projection, use_bias=True, dtype=self.compute.dtype)
        x = encoded.reshape(encoded.shape[0], -1, encoded.shape[-1])
        x = nn.with_logical_constraint(x, ("batch", "length", "act_embed"))
        # A kernel cannot use a mesh axis twice, and mlp -> mlp would use the tensor axis twice. So
        # the input axis of a middle layer has no logical name, and tensor parallelism gathers the
        # input. If there is only one layer, its input axis has no name either, because
        # vision_embed -> embed would use the fsdp axis twice.
        in_axes = {"vision_embed" if config.num_layers > 1 else None: x.shape[-1]}
        for number in range(1, config.num_layers):
            x = biased(in_axes, {"mlp": config.hidden_size}, name=f"linear_{number}")(x)
            x = nn.gelu(x, approximate=False)
            next_is_last = number == config.num_layers - 1
            in_axes = {"mlp" if next_is_last else None: config.hidden_size}
        last = f"linear_{config.num_layers}"
        return biased(in_axes, {"embed": self.language_width}, name=last)(x)
