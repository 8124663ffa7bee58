"""Visual abstractor: a fixed number of learned queries summarise a picture or a video.

Letters: N media, T frames, S image tokens (T * (1 + P)), Q queries, D width, E language width.

Source: X-PLUG/mPLUG-Owl, modeling_mplug_owl.py (MplugOwlVisualAbstractorModel) and the video
release. Two things look odd and are the original's: the residual of the attention is the *normed*
query, and there is no norm after the last layer.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from owl_jax.models.attention.dispatch import attend
from owl_jax.models.config import AbstractorConfig, Compute
from owl_jax.models.layers import LayerNorm, Projection, normal_init, truncated_init
from owl_jax.models.remat import named
from owl_jax.models.stack import apply_layers

ATTENTION_NORM_EPS = 1e-5  # PyTorch's default for norm1, normk and norm2; ffn_ln takes the config's


class Abstractor(nn.Module):
    """[N, T, 1 + P, D_vision] encoded frames -> [N, Q + 1, E], ready to stand among words.

    For T > 1 a second set of queries looks at the same tokens; the two halves are projected apart
    and added. The last of the Q + 1 vectors is a learned end mark.
    """

    config: AbstractorConfig
    vision_width: int
    language_width: int
    compute: Compute

    @nn.compact
    def __call__(self, encoded: jax.Array) -> jax.Array:
        config, dtype = self.config, self.compute.dtype
        N, T = encoded.shape[:2]
        Q, D = config.num_query_tokens, config.hidden_size
        image = encoded.reshape(N, -1, encoded.shape[-1])
        query_init = normal_init(("query", "vision_embed"), config.query_stddev)
        queries = self.param("queries", query_init, (Q, D))
        # The input axis has no name: "embed" already takes the mesh axis that it would.
        to_language = partial(Projection, {None: D}, {"embed": self.language_width}, True, dtype)
        project, project_temporal = to_language(name="project"), None
        if config.temporal:
            temporal_queries = self.param("temporal_queries", query_init, (Q, D))
            project_temporal = to_language(name="project_temporal")
            if T > 1:
                queries = jnp.concatenate([queries, temporal_queries])
        x = jnp.broadcast_to(queries.astype(dtype), (N, *queries.shape))
        x, image = (
            nn.with_logical_constraint(y, ("batch", "length", "act_embed")) for y in (x, image)
        )
        x, _ = apply_layers(
            partial(AbstractorBlock, config, self.vision_width, self.compute),
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

    config: AbstractorConfig
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
        seen = norm(ATTENTION_NORM_EPS, name="image_norm")(image)
        seen = jnp.concatenate([x, seen.astype(x.dtype)], axis=1)
        sees = {"vision_embed": self.vision_width}
        q = named("query", biased(embed, heads, name="query")(x))
        k = named("key", biased(sees, heads, name="key")(seen))
        v = named("value", biased(sees, heads, name="value")(seen))
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
