"""mPLUG-Owl2's visual abstractor: mPLUG-Owl's abstractor with fixed position embeddings.

Letters: N media, T frames, S tokens of an encoded frame (a grid of patches, after a class token if
the encoder has one), Q queries, D width, E language width.

Each layer adds position embeddings (sines and cosines) to the inputs of its query and key
projections, but not to the input of its value projection. The embeddings are one-dimensional for
the queries, two-dimensional for the grid, and zero for the class token. They are not trained, but
the released checkpoints contain them (buffers `q_pos_embed` and `k_pos_embed`), so they are read
from there. Each frame of a video is encoded as an image.

Source: X-PLUG/mPLUG-Owl, mPLUG-Owl2's visual_encoder.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Struct

from owl_jax.models.bounds import Deviation, Epsilon, Heads, Layers, QueryTokens, Size
from owl_jax.models.compute import Compute
from owl_jax.models.connectors.abstractor import Abstractor, AbstractorBlock, QueryConnector
from owl_jax.models.hf_config import Source
from owl_jax.models.parts import Path, VisionPart
from owl_jax.models.transforms import Same
from owl_jax.models.weight_names import Row

_WAVELENGTH_BASE = 10000.0  # arXiv 1706.03762, section 3.5


@dataclass(frozen=True)
class Owl2AbstractorConfig(QueryConnector):
    """The visual abstractor of mPLUG-Owl2. As in the original, queries start as N(0, 1)."""

    FIXED: ClassVar = ("query_positions", "key_positions")

    query_stddev: Deviation = 1.0
    architecture: Literal["owl2_abstractor"] = "owl2_abstractor"

    def build(self, vision: VisionPart, language_width: int, compute: Compute) -> Owl2Abstractor:
        return Owl2Abstractor(self, vision.hidden_size, language_width, compute)

    def num_tokens(self, vision: VisionPart, frames: int) -> int:
        """The queries and the end vector of each frame."""
        return frames * super().num_tokens(vision, 1)

    def problems(self, where: str) -> list[str]:
        problems = super().problems(where)
        if self.hidden_size % 4:
            problems.append(
                f"{where}.hidden_size {self.hidden_size} is not a multiple of 4; its four "
                "quarters hold the sines and cosines of the column and those of the row"
            )
        return problems

    def mismatches(self, vision: VisionPart, language_width: int) -> list[str]:
        problems = super().mismatches(vision, language_width)
        tokens = vision.tokens_per_frame
        if tokens - math.isqrt(tokens) ** 2 > 1:
            problems.append(
                f"connector {self.architecture} needs a square grid of patches with at most one "
                f"class token, but {vision.architecture} gives {tokens} tokens"
            )
        return problems

    def tokens_through(self, path: Path, vision: VisionPart, frames: int) -> int:
        return frames * super().tokens_through(path, vision, 1)

    def attention_flops(self, vision: VisionPart, frames: int) -> float:
        return frames * super().attention_flops(vision, 1)

    def refitted(self, path: Path, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        if path[-1] != "key_positions" or value.shape[-1] != shape[-1]:
            return None
        return np.broadcast_to(grid_sinusoids(*shape[-2:]), shape).astype(value.dtype)

    @classmethod
    def from_hf(cls, source: Source, vision: VisionPart) -> Self:
        """Reads visual_config.visual_abstractor of an mPLUG-Owl2 model. Raises UserError."""
        found = source.read(_HfAbstractor)
        owner = "the vision encoder"
        width_key = source.key("encoder_hidden_size")
        source.expect(width_key, found.encoder_hidden_size, vision.hidden_size, owner)
        # The original's default is 32, even if the side of the encoder's grid is not 32.
        side = math.isqrt(vision.tokens_per_frame)
        source.expect(source.key("grid_size"), found.grid_size or 32, side, owner)
        source.expect(source.key("use_cls_token"), found.use_cls_token, True, "mPLUG-Owl2")
        source.expect(source.key("add_v2t_pos_emb"), found.add_v2t_pos_emb, False, "mPLUG-Owl2")
        source.refuse_other_computation()
        return cls(
            num_query_tokens=found.num_learnable_queries,
            hidden_size=found.hidden_size,
            mlp_size=found.intermediate_size,
            num_layers=found.num_hidden_layers,
            num_heads=found.num_attention_heads,
            layer_norm_eps=found.layer_norm_eps,
        )

    def to_hf(self, vision: VisionPart) -> dict[str, Any]:
        """The inverse of `from_hf`."""
        return {
            "model_type": "mplug_owl_visual_abstract",
            "num_learnable_queries": self.num_query_tokens,
            "hidden_size": self.hidden_size,
            "encoder_hidden_size": vision.hidden_size,
            "intermediate_size": self.mlp_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "layer_norm_eps": self.layer_norm_eps,
            "grid_size": math.isqrt(vision.tokens_per_frame),
            "use_cls_token": True,
            "add_v2t_pos_emb": False,
        }

    def weight_rows(self) -> list[Row]:
        """mPLUG-Owl2's tensor names, without `model.`."""
        prefix = "visual_abstractor."
        attention = f"{prefix}encoder.layers.{{i}}.crossattention.attention"
        ours = "connector/layers"
        return [
            Row(f"{prefix}query_embeds", "connector/queries", Same(1)),
            Row(f"{attention}.q_pos_embed", f"{ours}/query_positions", Same()),
            Row(f"{attention}.k_pos_embed", f"{ours}/key_positions", Same()),
            *self.layer_rows(prefix),
        ]


class _HfAbstractor(Struct, frozen=True):
    """MplugOwlVisualAbstractorConfig (mPLUG-Owl2's configuration_mplug_owl2.py)."""

    num_learnable_queries: QueryTokens = 64
    hidden_size: Size = 1024
    intermediate_size: Size = 2816
    num_hidden_layers: Layers = 6
    num_attention_heads: Heads = 16
    layer_norm_eps: Epsilon = 1e-6
    encoder_hidden_size: Size = 1024
    grid_size: Size | None = None
    use_cls_token: bool = True
    add_v2t_pos_emb: bool = False


class Owl2Abstractor(Abstractor):
    """[N, T, S, D_vision] encoded frames -> [N, T * (Q + 1), E], tokens of the language model."""

    @nn.nowrap
    def block(self) -> type[AbstractorBlock]:
        return Owl2AbstractorBlock

    @nn.compact
    def __call__(self, encoded: jax.Array) -> jax.Array:
        N, T = encoded.shape[:2]
        vectors: jax.Array = super().__call__(encoded.reshape(N * T, 1, *encoded.shape[2:]))
        return vectors.reshape(N, -1, vectors.shape[-1])


class Owl2AbstractorBlock(AbstractorBlock):
    """The abstractor's layer with position embeddings of queries and patches."""

    @nn.nowrap
    def with_positions(self, queries: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array]:
        Q, D = queries.shape[1:]
        tables = line_sinusoids(np.arange(Q), D), grid_sinusoids(context.shape[1] - Q, D)
        query, key = (
            self.param(f"{name}_positions", _constant(table), table.shape).astype(context.dtype)
            for name, table in zip(("query", "key"), tables, strict=True)
        )
        return queries + query, context + jnp.concatenate([query, key])


def _constant(table: np.ndarray) -> Any:
    return nn.with_logical_partitioning(
        lambda key, shape: jnp.asarray(table, jnp.float32), (None, "vision_embed")
    )


def line_sinusoids(positions: np.ndarray, width: int) -> np.ndarray:
    """Positions on a line [n] -> [n, width]: sines, then cosines."""
    frequencies = _WAVELENGTH_BASE ** (-np.arange(width // 2) / (width // 2))
    angles = positions[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def grid_sinusoids(tokens: int, width: int) -> np.ndarray:
    """Position embeddings of a square grid, [tokens, width], with the patches in row-major order.

    The first half of the width encodes a patch's column, the second half its row.
    If `tokens` is not a square number, the first token is a class token and gets zeros.
    """
    side = math.isqrt(tokens)
    rows, columns = np.divmod(np.arange(side * side), side)
    halves = [line_sinusoids(positions, width // 2) for positions in (columns, rows)]
    patches = np.concatenate(halves, axis=1)
    return np.concatenate([np.zeros((tokens - len(patches), width)), patches])
