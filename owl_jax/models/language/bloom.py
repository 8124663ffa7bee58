"""BLOOM (arXiv 2211.05100): LayerNorm with biases, ALiBi instead of positions, tied output head.

Letters: B batch, L positions, D width, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from owl_jax.models.attention.dispatch import Placement, attend
from owl_jax.models.cache import Cache, LayerCache
from owl_jax.models.config import BloomConfig, Compute, LoraConfig
from owl_jax.models.layers import Embedding, LayerNorm, Projection, bloom_gelu
from owl_jax.models.remat import named
from owl_jax.models.stack import apply_layers


class Bloom(nn.Module):
    """Decoder on embeddings; the same interface as models/language/llama.py."""

    config: BloomConfig
    compute: Compute
    lora: LoraConfig | None = None

    def setup(self) -> None:
        config = self.config
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size, self.compute.dtype)
        self.embedding_norm = LayerNorm(config.layer_norm_eps)
        self.norm = LayerNorm(config.layer_norm_eps)

    def embed(self, ids: jax.Array) -> jax.Array:
        """int[B, L] -> [B, L, D], normed. Media vectors never are: splice them after this."""
        return self.embedding_norm(self.word_embeddings(ids))

    def head(self, hidden: jax.Array) -> jax.Array:
        """[B, L, D] -> float32[B, L, V]."""
        return self.word_embeddings.attend(hidden).astype(jnp.float32)

    @nn.compact
    def __call__(
        self,
        embeddings: jax.Array,
        placement: Placement,
        cache: Cache | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, Cache]:
        """Runs the decoder; arguments and result as `Llama.__call__`."""
        x, new = apply_layers(
            partial(BloomBlock, self.config, self.compute, self.lora),
            self.config.num_layers,
            embeddings,
            cache,
            placement,
            scan=self.compute.scan_layers,
            remat=self.compute.remat,
            deterministic=deterministic,
        )
        return self.norm(x), new


class BloomBlock(nn.Module):
    """One decoder layer. Returns (x, the keys and values of its positions)."""

    config: BloomConfig
    compute: Compute
    lora: LoraConfig | None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        past: LayerCache | None,
        placement: Placement,
        *,
        deterministic: bool,
    ) -> tuple[jax.Array, LayerCache]:
        config = self.config
        D, H, K = config.hidden_size, config.num_heads, config.head_dim
        embed, heads, mlp = {"embed": D}, {"heads": H, "kv": K}, {"mlp": 4 * D}

        def project(name: str, in_axes: dict, out_axes: dict, x: jax.Array) -> jax.Array:
            layer = Projection(in_axes, out_axes, True, self.compute.dtype, self.lora, name=name)
            return nn.with_logical_constraint(
                layer(x, deterministic),
                ("batch", "length", *(axis and f"act_{axis}" for axis in out_axes)),
            )

        x = named("input", x)
        y = LayerNorm(config.layer_norm_eps, name="attention_norm")(x)
        # The fused projection keeps q, k and v of a head together: [H, 3, K].
        fused = project("query_key_value", embed, {"heads": H, None: 3, "kv": K}, y)
        q, k, v = map(named, ("query", "key", "value"), jnp.moveaxis(fused, -2, 0))
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        slopes = jnp.asarray(alibi_slopes(H))
        y = attend(q, k, v, placement, slopes, self.compute.attention, past)
        x += named("attention", project("dense", heads, embed, y))

        y = LayerNorm(config.layer_norm_eps, name="mlp_norm")(x)
        up = named("up", project("dense_h_to_4h", embed, mlp, y))
        x += project("dense_4h_to_h", mlp, embed, named("mlp", bloom_gelu(up)))
        self.sow("intermediates", "output", x)
        return x, {"k": k, "v": v}


def alibi_slopes(num_heads: int) -> np.ndarray:
    """float32[H], ALiBi's head slopes (arXiv 2108.12409), also when H is no power of two."""
    closest = 2 ** math.floor(math.log2(num_heads))
    base = 2.0 ** -(8.0 / closest)
    slopes = [base ** (i + 1) for i in range(closest)]
    extra = 2.0 ** -(4.0 / closest)
    slopes += [extra ** (2 * i + 1) for i in range(num_heads - closest)]
    return np.asarray(slopes, np.float32)
