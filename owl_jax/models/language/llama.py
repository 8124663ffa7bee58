"""LLaMA (arXiv 2302.13971): RMSNorm, rotary positions, SwiGLU, no biases, separate output head.

Letters: B batch, L positions, D width, H heads, G key heads, K head width, F MLP width,
V vocabulary.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from owl_jax.models.attention.dispatch import Placement, attend
from owl_jax.models.cache import Cache, LayerCache
from owl_jax.models.config import Compute, LlamaConfig, LoraConfig
from owl_jax.models.layers import Embedding, Projection, RMSNorm
from owl_jax.models.remat import named
from owl_jax.models.stack import apply_layers


class Llama(nn.Module):
    """Decoder on embeddings, so that media can stand among words.

    `embed` gives word embeddings, `__call__` hidden states, `head` logits.
    """

    config: LlamaConfig
    compute: Compute
    lora: LoraConfig | None = None

    def setup(self) -> None:
        config, dtype = self.config, self.compute.dtype
        D, V = config.hidden_size, config.vocab_size
        self.embed_tokens = Embedding(V, D, dtype)
        self.norm = RMSNorm(config.rms_norm_eps)
        self.lm_head = Projection({"embed": D}, {"vocab": V}, dtype=dtype)

    def embed(self, ids: jax.Array) -> jax.Array:
        """int[B, L] -> [B, L, D]."""
        return self.embed_tokens(ids)

    def head(self, hidden: jax.Array) -> jax.Array:
        """[B, L, D] -> float32[B, L, V]."""
        return self.lm_head(hidden).astype(jnp.float32)

    @nn.compact
    def __call__(
        self,
        embeddings: jax.Array,
        placement: Placement,
        cache: Cache | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, Cache]:
        """Runs the decoder.

        Args:
          embeddings: [B, L, D], words and media.
          placement: of the row, or of the row's queries among the cache's slots.
          cache: keys and values of the positions before; only read.

        Returns: (hidden states after the last norm [B, L, D], keys and values of these L positions
        in the cache's form). A compiler leaves them out where nobody takes them, as in training.
        """
        rotation = rotary_tables(
            placement.query_positions, self.config.head_dim, self.config.rope_theta
        )
        x, new = apply_layers(
            partial(LlamaBlock, self.config, self.compute, self.lora),
            self.config.num_layers,
            embeddings,
            cache,
            rotation,
            placement,
            scan=self.compute.scan_layers,
            remat=self.compute.remat,
            deterministic=deterministic,
        )
        return self.norm(x), new


class LlamaBlock(nn.Module):
    """One decoder layer. Returns (x, the keys and values of its positions)."""

    config: LlamaConfig
    compute: Compute
    lora: LoraConfig | None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        past: LayerCache | None,
        rotation: tuple[jax.Array, jax.Array],
        placement: Placement,
        *,
        deterministic: bool,
    ) -> tuple[jax.Array, LayerCache]:
        config = self.config
        D, K = config.hidden_size, config.head_dim
        embed, heads = {"embed": D}, {"heads": config.num_heads, "kv": K}
        key_heads, mlp = {"heads": config.num_kv_heads, "kv": K}, {"mlp": config.intermediate_size}

        def project(name: str, in_axes: dict, out_axes: dict, x: jax.Array) -> jax.Array:
            layer = Projection(
                in_axes, out_axes, dtype=self.compute.dtype, lora=self.lora, name=name
            )
            return nn.with_logical_constraint(
                layer(x, deterministic), ("batch", "length", *(f"act_{axis}" for axis in out_axes))
            )

        x = named("input", x)
        y = RMSNorm(config.rms_norm_eps, name="attention_norm")(x)
        q = named("query", rotate(project("q_proj", embed, heads, y), *rotation))
        k = named("key", rotate(project("k_proj", embed, key_heads, y), *rotation))
        v = named("value", project("v_proj", embed, key_heads, y))
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        y = attend(q, k, v, placement, None, self.compute.attention, past)
        x += named("attention", project("o_proj", heads, embed, y))

        y = RMSNorm(config.rms_norm_eps, name="mlp_norm")(x)
        gate = named("gate", project("gate_proj", embed, mlp, y))
        up = named("up", project("up_proj", embed, mlp, y))
        x += project("down_proj", mlp, embed, named("mlp", nn.silu(gate) * up))
        self.sow("intermediates", "output", x)
        return x, {"k": k, "v": v}


def rotary_tables(positions: jax.Array, width: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines float32[B, L, 1, K] of the rotary angles (arXiv 2104.09864)."""
    frequencies = theta ** (-np.arange(0, width, 2, dtype=np.float32) / width)
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    # The angles of both halves. By a product, since what goes into a product is written down: a
    # CPU's compiler would compute cosines in each layer that it unrolls, and for each head.
    both = np.tile(np.eye(width // 2, dtype=np.float32), 2)
    cos, sin = (jnp.matmul(f(angles), both, precision="highest") for f in (jnp.cos, jnp.sin))
    return cos, sin


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates [B, L, H, K] in float32; halves of K are the pairs, as in the released weights.

    The swap of halves is a product with a constant matrix: the TPU compiler does that faster than
    a slice and a concatenation.
    """
    half = x.shape[-1] // 2
    eye = np.eye(half, dtype=np.float32)
    swap = np.block([[np.zeros_like(eye), eye], [-eye, np.zeros_like(eye)]])
    wide = x.astype(jnp.float32)
    swapped = jnp.matmul(x, swap.astype(x.dtype), preferred_element_type=jnp.float32)
    return (wide * cos + swapped * sin).astype(x.dtype)
