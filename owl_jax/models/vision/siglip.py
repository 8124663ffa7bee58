"""Vision encoder: the ViT of SigLIP and of fixed-resolution SigLIP 2, which are the same.

Letters: N media, T frames, P patches, D width.

Source: transformers, SiglipVisionModel. There is no class token and no norm before the layers. The
attention-pooling head is not used.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import flax.linen as nn
import jax

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
from owl_jax.models.layers import LayerNorm, Projection, truncated_init
from owl_jax.models.parts import Path, VisionPart, indivisible
from owl_jax.models.remat import named
from owl_jax.models.stack import apply_layers
from owl_jax.models.transforms import PatchConvolution, Same
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
from owl_jax.models.weight_names import Row

_ACTIVATION = "gelu_pytorch_tanh"


@dataclass(frozen=True)
class SiglipConfig(VitConfig):
    """SigLIP (arXiv 2303.15343) and SigLIP 2 (arXiv 2502.14786).

    `post_norm`: whether a norm follows the last layer. Defaults are those of
    google/siglip-so400m-patch14-384, whose patches leave out the last 6 of 384 rows and columns of
    pixels. `position_stddev` is init-only.
    """

    INIT_ONLY: ClassVar = ("position_stddev",)
    DEFINING: ClassVar = (*VisionPart.DEFINING, "layer_norm_eps")
    MODEL_TYPES: ClassVar = ("siglip", "siglip_vision_model")
    OTHER_PARTS: ClassVar = "SigLIP's text tower, pooling head, logit scale and bias"

    image_size: Pixels = 384
    patch_size: Pixels = 14
    hidden_size: Size = 1152
    intermediate_size: Size = 4304
    num_layers: Layers = 27
    num_heads: Heads = 16
    layer_norm_eps: Epsilon = 1e-6
    post_norm: bool = True
    position_stddev: Deviation = 0.02
    pixel_mean: Channels = (0.5, 0.5, 0.5)
    pixel_std: ChannelScales = (0.5, 0.5, 0.5)
    architecture: Literal["siglip"] = "siglip"

    def build(self, compute: Compute) -> Siglip:
        return Siglip(self, compute)

    @property
    def num_prefix_tokens(self) -> int:
        return 0

    def problems(self, where: str) -> list[str]:
        problems = indivisible(where, self, ("hidden_size", "num_heads"))
        if self.image_size < self.patch_size:
            problems.append(
                f"{where}.image_size {self.image_size} is less than {where}.patch_size "
                f"{self.patch_size}"
            )
        return problems

    def at_layer(self, layer: int, class_token: bool) -> Self:
        length = num_layers_at(self.num_layers, layer)
        return dataclasses.replace(self, num_layers=length, post_norm=False)

    def tokens_through(self, path: Path, frames: int) -> int:
        return frames * self.tokens_per_frame

    def attention_flops(self, frames: int) -> float:
        pairs = frames * self.tokens_per_frame**2
        return 4.0 * self.num_layers * self.hidden_size * pairs

    @classmethod
    def from_hf(cls, source: Source) -> Self:
        if "vision_config" in source.values or source.values.get("model_type") == "siglip":
            source = source.section("vision_config")
        source.refuse_other_computation()
        return cls(**sizes_from_hf(source, source.read(_HfSiglip), _ACTIVATION))

    def to_hf(self) -> dict[str, Any]:
        """The inverse of `from_hf`: SiglipVisionConfig of the model without its pooling head."""
        values = sizes_to_hf(self, _ACTIVATION)
        return {"model_type": "siglip_vision_model", **values, "vision_use_head": False}

    def weight_rows(self) -> list[Row]:
        """SiglipVisionModel's tensor names (transformers)."""
        embeddings = "vision_model.embeddings"
        patches, positions = f"{embeddings}.patch_embedding", "position_embedding.weight"
        return [
            Row(f"{patches}.weight", "vision/patch_embed/kernel", PatchConvolution()),
            Row(f"{patches}.bias", "vision/patch_embed/bias", Same()),
            Row(f"{embeddings}.{positions}", "vision/positions", Same()),
            *layer_rows(self.post_norm),
        ]

    def ignores(self, tensor: str) -> bool:
        """SigLIP's text tower, head, logit scale and bias, and all that follows the last layer."""
        others = ("text_model.", "vision_model.head.", "head.")
        if tensor.startswith(others) or tensor in ("logit_scale", "logit_bias"):
            return True
        return not self.post_norm and follows_layer(tensor, self.num_layers)


class _HfSiglip(HfVit, frozen=True):
    """SiglipVisionConfig (transformers 4 and 5)."""

    patch_size: Pixels = 16
    layer_norm_eps: Epsilon = 1e-6
    hidden_act: str = _ACTIVATION


class Siglip(nn.Module):
    """float[N, T, height, width, 3] normalised pixels -> [N, T, P, D]."""

    config: SiglipConfig
    compute: Compute

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        config, dtype = self.config, self.compute.dtype
        N, T = pixels.shape[:2]
        D, p, P = config.hidden_size, config.patch_size, config.tokens_per_frame
        frames = pixels.astype(dtype).reshape(N * T, *pixels.shape[2:])
        embed = Projection(
            {"patch": p * p * 3},
            {"vision_embed": D},
            use_bias=True,
            dtype=dtype,
            name="patch_embed",
        )
        init = truncated_init((None, "vision_embed"), config.position_stddev)
        x = embed(patches_of(frames, p))
        x += self.param("positions", init, (P, D)).astype(x.dtype)
        # Shard by media: the compiler would otherwise follow the weights and shard the width.
        x = nn.with_logical_constraint(x, ("batch", "length", "act_embed"))
        x, _ = apply_layers(
            partial(SiglipBlock, config, self.compute),
            config.num_layers,
            x,
            None,
            scan=self.compute.scan_layers,
            remat=self.compute.media_remat,
        )
        if config.post_norm:
            x = LayerNorm(config.layer_norm_eps, ("vision_embed",), name="post_norm")(x)
        return x.reshape(N, T, P, D)


class SiglipBlock(nn.Module):
    """Pre-norm transformer block on [N * T, P, D]."""

    config: SiglipConfig
    compute: Compute

    @nn.compact
    def __call__(self, x: jax.Array, _: None, *, deterministic: bool) -> tuple[jax.Array, None]:
        config = self.config
        x = attention_and_mlp(
            named("input", x),
            config.num_heads,
            config.intermediate_size,
            config.layer_norm_eps,
            nn.gelu,  # the tanh form
            self.compute,
        )
        self.sow("intermediates", "output", x)
        return x, None
