"""Vision encoder: CLIP ViT, with the video release's temporal convolutions between its layers.

Letters: N media, T frames, P patches, D width, H heads, K head width, F MLP width.

Source: X-PLUG/mPLUG-Owl, modeling_mplug_owl.py (MplugOwlVisionModel) and the video release's
MplugOwlVisionLocalTemporal. Position 0 of the token axis is the class token.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from owl_jax.models.attention.dispatch import attend
from owl_jax.models.config import Compute, VisionConfig
from owl_jax.models.layers import (
    LayerNorm,
    Projection,
    constant_init,
    normal_init,
    quick_gelu,
    truncated_init,
)
from owl_jax.models.remat import named
from owl_jax.models.stack import apply_layers

TEMPORAL_NORM_EPS = 1e-5  # PyTorch's default, not the config's: the original passes none


class VisionEncoder(nn.Module):
    """float[N, T, height, width, 3] normalised pixels -> [N, T, 1 + P, D].

    With T = 1 no temporal part is used, so a still picture is a video of one frame.
    """

    config: VisionConfig
    compute: Compute

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        config = self.config
        N, T = pixels.shape[:2]
        D, p = config.hidden_size, config.patch_size
        side = config.image_size // p
        patches = pixels.astype(self.compute.dtype).reshape(N * T, side, p, side, p, 3)
        patches = patches.swapaxes(2, 3).reshape(N * T, side * side, p * p * 3)
        x = Projection(
            {"patch": p * p * 3}, {"vision_embed": D}, dtype=self.compute.dtype, name="patch_embed"
        )(patches)
        init = truncated_init((None, "vision_embed"), config.position_stddev)
        class_token = self.param("class_token", init, (1, D)).astype(x.dtype)
        positions = self.param("positions", init, (1 + config.num_patches, D)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(class_token, (N * T, 1, D)), x], axis=1) + positions
        norm = partial(LayerNorm, config.layer_norm_eps, ("vision_embed",))
        x = norm(name="pre_norm")(x)
        # Else the compiler may divide the width, as the weights lie, and not the media.
        x = nn.with_logical_constraint(x, ("batch", "length", "act_embed"))
        self.sow("intermediates", "embeddings", x)
        x, _ = apply_layers(
            partial(VisionBlock, config, self.compute, T),
            config.num_layers,
            x,
            None,
            scan=self.compute.scan_layers,
            remat=self.compute.media_remat,
        )
        return norm(name="post_norm")(x).reshape(N, T, 1 + config.num_patches, D)


class VisionBlock(nn.Module):
    """Pre-norm transformer block on [N * T, 1 + P, D]; frames of a medium are adjacent rows."""

    config: VisionConfig
    compute: Compute
    num_frames: int

    @nn.compact
    def __call__(self, x: jax.Array, _: None, *, deterministic: bool) -> tuple[jax.Array, None]:
        config, dtype = self.config, self.compute.dtype
        D, H = config.hidden_size, config.num_heads
        embed, heads = {"vision_embed": D}, {"heads": H, "kv": D // H}
        norm = partial(LayerNorm, config.layer_norm_eps, ("vision_embed",))
        biased = partial(Projection, use_bias=True, dtype=dtype)
        x = named("input", x)
        if config.temporal:
            temporal = TemporalConvolution(config, self.compute, name="temporal")
            if self.num_frames > 1:
                update = temporal(x.reshape(-1, self.num_frames, *x.shape[1:]))
                x += update.reshape(x.shape)
            elif self.is_initializing():
                temporal(x[:, None])
        y = norm(name="attention_norm")(x)
        # The fused projection keeps q, k and v of a head together: [H, 3, K].
        fused_axes = {"heads": H, None: 3, "kv": D // H}
        fused = jnp.moveaxis(biased(embed, fused_axes, name="qkv")(y), -2, 0)
        q, k, v = map(named, ("query", "key", "value"), fused)
        y = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), implementation=self.compute.attention)
        x += named("attention", biased(heads, embed, name="out")(y))
        y = norm(name="mlp_norm")(x)
        mlp = {"mlp": config.intermediate_size}
        up = named("up", biased(embed, mlp, name="up")(y))
        x += biased(mlp, embed, name="down")(named("mlp", quick_gelu(up)))
        self.sow("intermediates", "output", x)
        return x, None


class TemporalConvolution(nn.Module):
    """The video release's mixing over time: [N, T, 1 + P, D] -> [N, T, 1 + P, D].

    Patches: norm, project to D / 2, depthwise convolution over three frames, QuickGELU, project
    back. The class token is returned as it came, so that the caller's residual doubles it.
    """

    config: VisionConfig
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


def pooled_class_token(encoded: jax.Array, params: Any, config: VisionConfig) -> jax.Array:
    """The original's pooler output [N, D]: the last norm again, on the class token's mean over T.

    Nothing in the model uses it; it is here for people who want CLIP-like features.
    """
    norm = LayerNorm(config.layer_norm_eps, ("vision_embed",))
    pooled: Any = norm.apply({"params": params["post_norm"]}, encoded[:, :, 0].mean(axis=1))
    return pooled
