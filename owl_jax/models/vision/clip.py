"""Vision encoder: CLIP ViT, with the video release's temporal convolutions between its layers.

Letters: N media, T frames, P patches, D width, H heads, K head width, F MLP width.

Source: X-PLUG/mPLUG-Owl, modeling_mplug_owl.py (MplugOwlVisionModel) and the video release's
MplugOwlVisionLocalTemporal. The first token is the class token.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from owl_jax.models.bounds import (
    Channels,
    ChannelScales,
    Deviation,
    Epsilon,
    Heads,
    Layers,
    Pixels,
    Size,
)
from owl_jax.models.compute import Compute
from owl_jax.models.hf_config import Source
from owl_jax.models.layers import (
    LayerNorm,
    Projection,
    constant_init,
    normal_init,
    quick_gelu,
    truncated_init,
)
from owl_jax.models.parts import Path, VisionPart, indivisible
from owl_jax.models.remat import named
from owl_jax.models.stack import apply_layers
from owl_jax.models.transforms import Flat, PatchConvolution, Same
from owl_jax.models.vision.vit import (
    HfVit,
    VitConfig,
    attention_and_mlp,
    follows_layer,
    layer_rows,
    num_layers_at,
    patches_of,
    sizes_from_hf,
    sizes_to_hf,
)
from owl_jax.models.weight_names import Row, layer_norm

TEMPORAL_NORM_EPS = 1e-5  # PyTorch's default: the original does not pass the config's


@dataclass(frozen=True)
class ClipConfig(VitConfig):
    """CLIP ViT (arXiv 2103.00020); `temporal` adds the video release's temporal convolutions.

    `class_token_output`: whether the class token is in the output, before the patches. `post_norm`:
    whether a norm follows the last layer. LLaVA turns both off and leaves out the last layer
    (`at_layer`). Defaults are the released mplug-owl-llama-7b's. `position_stddev` is init-only.
    """

    INIT_ONLY: ClassVar = ("position_stddev",)
    DEFINING: ClassVar = (*VisionPart.DEFINING, "layer_norm_eps")
    MODEL_TYPES: ClassVar = ("clip", "clip_vision_model")
    OTHER_PARTS: ClassVar = "CLIP's text tower, projections and logit scale"

    image_size: Pixels = 224
    patch_size: Pixels = 14
    hidden_size: Size = 1024
    intermediate_size: Size = 4096
    num_layers: Layers = 24
    num_heads: Heads = 16
    layer_norm_eps: Epsilon = 1e-6
    temporal: bool = False
    class_token_output: bool = True
    post_norm: bool = True
    position_stddev: Deviation = 0.02
    # OpenAI CLIP, clip.py.
    pixel_mean: Channels = (0.48145466, 0.4578275, 0.40821073)
    pixel_std: ChannelScales = (0.26862954, 0.26130258, 0.27577711)
    architecture: Literal["clip"] = "clip"

    def build(self, compute: Compute) -> Clip:
        return Clip(self, compute)

    @property
    def num_prefix_tokens(self) -> int:
        return int(self.class_token_output)

    @property
    def is_whole(self) -> bool:
        """Whether all layers, the last norm and the class token are there, as in mPLUG-Owl."""
        return self.post_norm and self.class_token_output

    @property
    def num_patches(self) -> int:
        return math.prod(self.grid)

    @property
    def _width(self) -> int:
        """Tokens of a frame inside the encoder."""
        return 1 + self.num_patches

    def problems(self, where: str) -> list[str]:
        return indivisible(where, self, ("image_size", "patch_size"), ("hidden_size", "num_heads"))

    def at_layer(self, layer: int, class_token: bool) -> Self:
        length = num_layers_at(self.num_layers, layer)
        return dataclasses.replace(
            self, num_layers=length, post_norm=False, class_token_output=class_token
        )

    def tokens_through(self, path: Path, frames: int) -> int:
        if "temporal" in path:  # patches of videos only
            return frames * self.num_patches if frames > 1 else 0
        return frames * (self.num_patches if "patch_embed" in path else self._width)

    def attention_flops(self, frames: int) -> float:
        pairs = frames * self._width**2
        return 4.0 * self.num_layers * self.hidden_size * pairs

    @classmethod
    def from_hf(cls, source: Source) -> Self:
        if "vision_config" in source.values or source.values.get("model_type") == "clip":
            # In files of transformers 4.20 and earlier, vision_config_dict overrides vision_config.
            overrides = source.section("vision_config_dict").values
            section = source.section("vision_config")
            source = section.with_values({**section.values, **overrides})
        source.refuse_other_computation()
        return cls._from_struct(source, source.read(HfVit))

    @classmethod
    def from_owl(cls, source: Source, temporal: bool) -> Self:
        """Reads vision_config of mPLUG-Owl's config.json. Raises UserError."""
        return cls._from_struct(source, source.read(_HfOwlVision), temporal)

    @classmethod
    def _from_struct(cls, source: Source, vision: HfVit, temporal: bool = False) -> Self:
        return cls(**sizes_from_hf(source, vision, "quick_gelu"), temporal=temporal)

    def to_hf(self) -> dict[str, Any]:
        """The inverse of `from_hf`: a CLIPVisionConfig that ends at this encoder's last layer."""
        return {"model_type": "clip_vision_model", **sizes_to_hf(self, "quick_gelu")}

    def weight_rows(self) -> list[Row]:
        """CLIPVisionModel's tensor names (transformers)."""
        embeddings = "vision_model.embeddings"
        patches, positions = "patch_embedding.weight", "position_embedding.weight"
        return [
            Row(f"{embeddings}.{patches}", "vision/patch_embed/kernel", PatchConvolution()),
            Row(f"{embeddings}.class_embedding", "vision/class_token", Flat()),
            Row(f"{embeddings}.{positions}", "vision/positions", Same()),
            *layer_norm("vision_model.pre_layrnorm", "vision/pre_norm"),  # sic
            *layer_rows(self.post_norm),
        ]

    def ignores(self, tensor: str) -> bool:
        """CLIP's text tower, projections and logit scale, and all that follows the last layer."""
        others = ("text_model.", "text_projection", "visual_projection")
        if tensor.startswith(others) or tensor == "logit_scale":
            return True
        return not self.post_norm and follows_layer(tensor, self.num_layers)


class _HfOwlVision(HfVit, frozen=True):
    """MplugOwlVisionConfig (X-PLUG/mPLUG-Owl, configuration_mplug_owl.py)."""

    patch_size: Pixels = 14
    hidden_size: Size = 1024
    intermediate_size: Size = 4096
    num_hidden_layers: Layers = 24
    num_attention_heads: Heads = 16
    layer_norm_eps: Epsilon = 1e-6


class Clip(nn.Module):
    """float[N, T, height, width, 3] normalised pixels -> [N, T, 1 + P, D], or [N, T, P, D].

    An image is a video of one frame: T = 1 skips the temporal convolutions.
    """

    config: ClipConfig
    compute: Compute

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        config = self.config
        N, T = pixels.shape[:2]
        D, p = config.hidden_size, config.patch_size
        frames = pixels.astype(self.compute.dtype).reshape(N * T, *pixels.shape[2:])
        x = Projection(
            {"patch": p * p * 3}, {"vision_embed": D}, dtype=self.compute.dtype, name="patch_embed"
        )(patches_of(frames, p))
        init = truncated_init((None, "vision_embed"), config.position_stddev)
        class_token = self.param("class_token", init, (1, D)).astype(x.dtype)
        positions = self.param("positions", init, (1 + config.num_patches, D)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(class_token, (N * T, 1, D)), x], axis=1) + positions
        norm = partial(LayerNorm, config.layer_norm_eps, ("vision_embed",))
        x = norm(name="pre_norm")(x)
        # Shard by media: the compiler would otherwise follow the weights and shard the width.
        x = nn.with_logical_constraint(x, ("batch", "length", "act_embed"))
        self.sow("intermediates", "embeddings", x)
        x, _ = apply_layers(
            partial(ClipBlock, config, self.compute, T),
            config.num_layers,
            x,
            None,
            scan=self.compute.scan_layers,
            remat=self.compute.media_remat,
        )
        if config.post_norm:
            x = norm(name="post_norm")(x)
        x = x.reshape(N, T, 1 + config.num_patches, D)
        return x if config.class_token_output else x[:, :, 1:]


class ClipBlock(nn.Module):
    """Pre-norm transformer block on [N * T, 1 + P, D]; the frames of a medium are adjacent."""

    config: ClipConfig
    compute: Compute
    num_frames: int

    @nn.compact
    def __call__(self, x: jax.Array, _: None, *, deterministic: bool) -> tuple[jax.Array, None]:
        config = self.config
        x = named("input", x)
        if config.temporal:
            temporal = TemporalConvolution(config, self.compute, name="temporal")
            if self.num_frames > 1:
                update = temporal(x.reshape(-1, self.num_frames, *x.shape[1:]))
                x += update.reshape(x.shape)
            elif self.is_initializing():
                temporal(x[:, None])
        x = attention_and_mlp(
            x,
            config.num_heads,
            config.intermediate_size,
            config.layer_norm_eps,
            quick_gelu,
            self.compute,
        )
        self.sow("intermediates", "output", x)
        return x, None


class TemporalConvolution(nn.Module):
    """The video release's temporal mixing: [N, T, 1 + P, D] -> [N, T, 1 + P, D].

    Patches: norm, project to D / 2, depthwise convolution over three frames, QuickGELU, project
    back. The class token passes through unchanged; the caller's residual doubles it.
    """

    config: ClipConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        D, dtype = self.config.hidden_size, self.compute.dtype
        narrow = D // 2
        patches = LayerNorm(TEMPORAL_NORM_EPS, ("vision_embed",), name="norm")(x[:, :, 1:])
        embed, bottleneck = {"vision_embed": D}, {"mlp": narrow}
        biased = partial(Projection, use_bias=True, dtype=dtype)
        y = named("temporal", biased(embed, bottleneck, name="down")(patches))
        kernel = self.param("kernel", normal_init((None, "mlp")), (3, narrow)).astype(dtype)
        bias = self.param("bias", constant_init(0.0, ("mlp",)), (narrow,)).astype(dtype)
        T = y.shape[1]
        padded = jnp.pad(y, ((0, 0), (1, 1), (0, 0), (0, 0)))
        y = sum(padded[:, i : i + T] * kernel[i] for i in range(3)) + bias
        y = biased(bottleneck, embed, name="up", stddev=0.0)(quick_gelu(y))
        y = named("temporal", y)
        y = jnp.concatenate([x[:, :, :1], y], axis=2)
        self.sow("intermediates", "output", y)
        return y
