"""Visual abstractor: a fixed number of learned queries summarise an image or a video.

Letters: N media, T frames, S image tokens (T * (1 + P)), Q queries, D width, E language width.

Source: X-PLUG/mPLUG-Owl, modeling_mplug_owl.py (MplugOwlVisualAbstractorModel) and the video
release. Two oddities come from the original: the attention's residual is the *normed* query, and
no norm follows the last layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from msgspec import Struct

from owl_jax.errors import UserError
from owl_jax.models.attention.dispatch import attend
from owl_jax.models.bounds import Deviation, Epsilon, Heads, Layers, QueryTokens, Size
from owl_jax.models.compute import Compute
from owl_jax.models.hf_config import Source
from owl_jax.models.layers import LayerNorm, Projection, normal_init, truncated_init
from owl_jax.models.parts import ConnectorPart, Path, VisionPart, indivisible
from owl_jax.models.remat import named
from owl_jax.models.stack import apply_layers
from owl_jax.models.transforms import Same
from owl_jax.models.weight_names import Row, layer_norm, weight_and_bias

ATTENTION_NORM_EPS = 1e-5  # PyTorch's default for norm1, normk and norm2; ffn_ln takes the config's


@dataclass(frozen=True)
class QueryConnector(ConnectorPart):
    """Learned queries that attend to [queries; image tokens], layer after layer.

    The released abstractors share this base. `mlp_size` is the width of the MLP's weights.
    `query_stddev` is init-only.
    """

    INIT_ONLY: ClassVar = ("query_stddev",)

    num_query_tokens: QueryTokens = 64
    hidden_size: Size = 1024
    mlp_size: Size = 2816
    num_layers: Layers = 6
    num_heads: Heads = 16
    layer_norm_eps: Epsilon = 1e-6
    query_stddev: Deviation = 0.0

    @property
    def has_temporal_queries(self) -> bool:
        """Whether videos have a second set of queries."""
        return False

    def num_tokens(self, vision: VisionPart, frames: int) -> int:
        """The queries and the end vector, for any number of frames."""
        return self.num_query_tokens + 1

    def problems(self, where: str) -> list[str]:
        return indivisible(where, self, ("hidden_size", "num_heads"))

    def mismatches(self, vision: VisionPart, language_width: int) -> list[str]:
        if self.hidden_size == vision.hidden_size:
            return []
        return [
            f"connector.hidden_size {self.hidden_size} does not equal vision.hidden_size "
            f"{vision.hidden_size}: the queries attend to themselves and to the image's tokens"
        ]

    def num_parameters(self) -> float:
        return self.num_layers * self.hidden_size * (4.0 * self.hidden_size + 3 * self.mlp_size)

    def tokens_through(self, path: Path, vision: VisionPart, frames: int) -> int:
        if "project" in path:
            return self.num_query_tokens
        if "project_temporal" in path:
            return self.num_query_tokens if frames > 1 else 0
        queries = self._queries(frames)
        is_from_image = path[-2] in ("key", "value")
        return queries + frames * vision.tokens_per_frame if is_from_image else queries

    def attention_flops(self, vision: VisionPart, frames: int) -> float:
        queries = self._queries(frames)
        pairs = queries * (queries + frames * vision.tokens_per_frame)
        return 4.0 * self.num_layers * self.hidden_size * pairs

    def _queries(self, frames: int) -> int:
        return self.num_query_tokens * (2 if self.has_temporal_queries and frames > 1 else 1)

    def layer_rows(self, prefix: str) -> list[Row]:
        """The tensor names that the releases share, below `prefix`."""
        attention = f"{prefix}encoder.layers.{{i}}.crossattention"
        mlp, ours = f"{attention}.output.mlp", "connector/layers"
        return [
            *layer_norm(f"{attention}.norm1", f"{ours}/query_norm"),
            *layer_norm(f"{attention}.normk", f"{ours}/image_norm"),
            *weight_and_bias(f"{attention}.attention.query", f"{ours}/query"),
            *weight_and_bias(f"{attention}.attention.key", f"{ours}/key"),
            *weight_and_bias(f"{attention}.attention.value", f"{ours}/value"),
            *weight_and_bias(f"{attention}.output.out_proj", f"{ours}/out", num_in_axes=2),
            *layer_norm(f"{attention}.output.norm2", f"{ours}/mlp_norm"),
            *weight_and_bias(f"{mlp}.w1", f"{ours}/gate"),
            *weight_and_bias(f"{mlp}.w3", f"{ours}/up"),
            *layer_norm(f"{mlp}.ffn_ln", f"{ours}/inner_norm"),
            *weight_and_bias(f"{mlp}.w2", f"{ours}/down"),
            *weight_and_bias(f"{prefix}visual_fc", "connector/project"),
            Row(f"{prefix}vit_eos", "connector/end", Same(2)),
        ]


@dataclass(frozen=True)
class AbstractorConfig(QueryConnector):
    """The visual abstractor of mPLUG-Owl.

    `mlp_size` is the released image models' `intermediate_size`; the video release rounds it.
    `temporal` adds a second set of queries and their projection for videos of more than one frame.
    As in the original, queries start at 0.
    """

    temporal: bool = False
    architecture: Literal["abstractor"] = "abstractor"

    def build(self, vision: VisionPart, language_width: int, compute: Compute) -> Abstractor:
        return Abstractor(self, vision.hidden_size, language_width, compute)

    @property
    def has_temporal_queries(self) -> bool:
        return self.temporal

    @classmethod
    def from_hf(
        cls, source: Source, num_query_tokens: int, vision_width: int, temporal: bool
    ) -> Self:
        """Reads visual_abstractor_config of an mPLUG-Owl model. Raises UserError."""
        # encoder_hidden_size defaults to the vision encoder's width.
        values = {"encoder_hidden_size": vision_width, **source.values}
        found = source.with_values(values).read(_HfAbstractor)
        source.expect(
            source.key("encoder_hidden_size"),
            found.encoder_hidden_size,
            vision_width,
            "the vision encoder",
        )
        source.refuse_other_computation()
        return cls(
            num_query_tokens=num_query_tokens,
            hidden_size=found.hidden_size,
            mlp_size=mlp_size(found.intermediate_size, temporal),
            num_layers=found.num_hidden_layers,
            num_heads=found.num_attention_heads,
            layer_norm_eps=found.layer_norm_eps,
            temporal=temporal,
        )

    def to_hf(self, vision_width: int) -> dict[str, Any]:
        """The inverse of `from_hf`. Raises UserError for a width that the format cannot express."""
        return {
            "model_type": "mplug_owl_visual_abstract",
            "hidden_size": self.hidden_size,
            "encoder_hidden_size": vision_width,
            "intermediate_size": _intermediate_size(self),
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "layer_norm_eps": self.layer_norm_eps,
        }

    def weight_rows(self) -> list[Row]:
        """mPLUG-Owl's tensor names."""
        rows = [Row("query_tokens", "connector/queries", Same(1)), *self.layer_rows("abstractor.")]
        if self.temporal:
            rows += [
                Row("temporal_query_tokens", "connector/temporal_queries", Same(1)),
                *weight_and_bias("abstractor.temporal_visual_fc", "connector/project_temporal"),
            ]
        return rows


class _HfAbstractor(Struct, frozen=True):
    """MplugOwlVisualAbstractorConfig (X-PLUG/mPLUG-Owl, configuration_mplug_owl.py)."""

    hidden_size: Size = 1024
    intermediate_size: Size = 4096
    num_hidden_layers: Layers = 6
    num_attention_heads: Heads = 16
    layer_norm_eps: Epsilon = 1e-6
    encoder_hidden_size: Size = 1024


def mlp_size(intermediate_size: int, temporal: bool) -> int:
    """Width of the abstractor's MLP; the video release rounds it unless it is 2816."""
    if not temporal or intermediate_size == 2816:
        return intermediate_size
    return 256 * math.ceil(int(2 * intermediate_size / 3) / 256)


def _intermediate_size(config: AbstractorConfig) -> int:
    """The inverse of `mlp_size`."""
    size = config.mlp_size
    if config.temporal and size != 2816:
        size = size * 3 // 2
    if mlp_size(size, config.temporal) != config.mlp_size:
        raise UserError(
            f"connector.mlp_size is {config.mlp_size}; the video release's format can only express "
            "multiples of 256"
        )
    return size


class Abstractor(nn.Module):
    """[N, T, S, D_vision] encoded frames -> [N, Q + 1, E], tokens of the language model.

    For T > 1 a second set of queries attends to the same tokens; each set has its own projection,
    and the results are added. The last of the Q + 1 vectors is a learned end marker.
    """

    config: QueryConnector
    vision_width: int
    language_width: int
    compute: Compute

    @nn.nowrap
    def block(self) -> type[AbstractorBlock]:
        """The class of a layer."""
        return AbstractorBlock

    @nn.compact
    def __call__(self, encoded: jax.Array) -> jax.Array:
        config, dtype = self.config, self.compute.dtype
        N, T = encoded.shape[:2]
        Q, D = config.num_query_tokens, config.hidden_size
        image = encoded.reshape(N, -1, encoded.shape[-1])
        query_init = normal_init(("query", "vision_embed"), config.query_stddev)
        queries = self.param("queries", query_init, (Q, D))
        # The input axis has no logical name: "embed" already uses the mesh axis it would map to.
        to_language = partial(Projection, {None: D}, {"embed": self.language_width}, True, dtype)
        project, project_temporal = to_language(name="project"), None
        if config.has_temporal_queries:
            temporal_queries = self.param("temporal_queries", query_init, (Q, D))
            project_temporal = to_language(name="project_temporal")
            if T > 1:
                queries = jnp.concatenate([queries, temporal_queries])
        x = jnp.broadcast_to(queries.astype(dtype), (N, *queries.shape))
        x, image = (
            nn.with_logical_constraint(y, ("batch", "length", "act_embed")) for y in (x, image)
        )
        x, _ = apply_layers(
            partial(self.block(), config, self.vision_width, self.compute),
            config.num_layers,
            x,
            None,
            image,
            scan=self.compute.scan_layers,
            remat=self.compute.media_remat,
        )
        y = project(x[:, :Q])
        if project_temporal is not None and (T > 1 or self.is_initializing()):
            y += project_temporal(x[:, -Q:])
        end = self.param("end", truncated_init(("embed",)), (self.language_width,)).astype(dtype)
        return jnp.concatenate([y, jnp.broadcast_to(end, (N, 1, self.language_width))], axis=1)


class AbstractorBlock(nn.Module):
    """Queries [N, Q, D] attend to [queries; image tokens [N, S, D_vision]], then a SwiGLU MLP."""

    config: QueryConnector
    vision_width: int
    compute: Compute

    @nn.compact
    def __call__(
        self, x: jax.Array, _: None, image: jax.Array, *, deterministic: bool
    ) -> tuple[jax.Array, None]:
        config = self.config
        D, H = config.hidden_size, config.num_heads
        embed, heads = {"vision_embed": D}, {"heads": H, "kv": D // H}
        biased = partial(Projection, use_bias=True, dtype=self.compute.dtype)
        norm = partial(LayerNorm, names=("vision_embed",))

        x = norm(ATTENTION_NORM_EPS, name="query_norm")(named("input", x))
        context = norm(ATTENTION_NORM_EPS, name="image_norm")(image)
        context = jnp.concatenate([x, context.astype(x.dtype)], axis=1)
        vision_embed = {"vision_embed": self.vision_width}
        asking, asked = self.with_positions(x, context)
        q = named("query", biased(embed, heads, name="query")(asking))
        k = named("key", biased(vision_embed, heads, name="key")(asked))
        v = named("value", biased(vision_embed, heads, name="value")(context))
        y = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), implementation=self.compute.attention)
        x += named("attention", biased(heads, embed, name="out")(y))

        y = norm(ATTENTION_NORM_EPS, name="mlp_norm")(x)
        mlp = {"mlp": config.mlp_size}
        gate = named("gate", biased(embed, mlp, name="gate")(y))
        up = named("up", biased(embed, mlp, name="up")(y))
        y = LayerNorm(config.layer_norm_eps, ("mlp",), name="inner_norm")(nn.silu(gate) * up)
        x += biased(mlp, embed, name="down")(named("mlp", y))
        self.sow("intermediates", "output", x)
        return x, None

    @nn.nowrap
    def with_positions(self, queries: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The inputs of the query and key projections; values have no positions."""
        return queries, context
