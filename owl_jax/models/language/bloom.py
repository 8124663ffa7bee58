"""BLOOM (arXiv 2211.05100): LayerNorm with biases, ALiBi instead of rotary positions, tied head.

Letters: B batch, L tokens, D width, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Struct

from owl_jax.models.attention.dispatch import attend
from owl_jax.models.attention.mask import AttentionMask
from owl_jax.models.bounds import Epsilon, Heads, Layers, Size, TokenId, Vocabulary
from owl_jax.models.cache import Cache, LayerCache, Past
from owl_jax.models.compute import Compute
from owl_jax.models.hf_config import Ids, Padding, Source, token_ids
from owl_jax.models.int8_cache import cached_form
from owl_jax.models.layers import Embedding, LayerNorm, Projection, bloom_gelu
from owl_jax.models.lora import LoraConfig
from owl_jax.models.parts import LanguagePart, indivisible
from owl_jax.models.remat import named
from owl_jax.models.stack import apply_layers
from owl_jax.models.transforms import Same
from owl_jax.models.weight_names import Row, layer_norm, weight_and_bias


@dataclass(frozen=True)
class BloomConfig(LanguagePart):
    """BLOOM; defaults are bloomz-7b1's."""

    HF_CLASS: ClassVar = "BloomForCausalLM"
    BASE_PREFIX: ClassVar = "transformer."
    DEFINING: ClassVar = ("layer_norm_eps",)
    PROJECTIONS: ClassVar = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")

    vocab_size: Vocabulary = 250880
    hidden_size: Size = 4096
    num_layers: Layers = 30
    num_heads: Heads = 32
    layer_norm_eps: Epsilon = 1e-5
    bos_token_id: TokenId = 1
    eos_token_id: TokenId = 2
    pad_token_id: TokenId = 3
    architecture: Literal["bloom"] = "bloom"

    def build(self, compute: Compute, lora: LoraConfig | None) -> Bloom:
        return Bloom(self, compute, lora)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def num_kv_heads(self) -> int:
        return self.num_heads

    @property
    def head_modules(self) -> tuple[str, ...]:
        return ("word_embeddings",)

    @property
    def tied_tensors(self) -> Mapping[str, str]:
        return {"lm_head.weight": "transformer.word_embeddings.weight"}

    @property
    def max_length(self) -> int:
        """Eight times the training length. ALiBi has no limit, but memory does."""
        return 16_384

    def problems(self, where: str) -> list[str]:
        return indivisible(where, self, ("hidden_size", "num_heads"))

    def num_parameters(self) -> float:
        D = self.hidden_size
        return self.num_layers * 12.0 * D**2 + 2 * self.vocab_size * D

    def attention_flops(self, length: int) -> float:
        return 2.0 * self.num_layers * self.hidden_size * length**2

    @classmethod
    def from_hf(cls, source: Source) -> Self:
        bloom = source.renamed(_HF_NAMES).read(_HfBloom)
        source.expect("tie_word_embeddings", bloom.tie_word_embeddings, True, "BLOOM")
        return cls(
            vocab_size=bloom.vocab_size,
            hidden_size=bloom.hidden_size,
            num_layers=bloom.n_layer,
            num_heads=bloom.n_head,
            layer_norm_eps=bloom.layer_norm_epsilon,
            **token_ids(bloom),
        )

    def to_hf(self) -> dict[str, Any]:
        return {
            "model_type": "bloom",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "n_layer": self.num_layers,
            "n_head": self.num_heads,
            "layer_norm_epsilon": self.layer_norm_eps,
            "tie_word_embeddings": True,
        }

    def weight_rows(self) -> list[Row]:
        """BloomForCausalLM's names (transformers)."""
        model, layer, ours = "transformer", "transformer.h.{i}", "llm/layers"
        return [
            Row(f"{model}.word_embeddings.weight", "llm/word_embeddings/embedding", Same()),
            *layer_norm(f"{model}.word_embeddings_layernorm", "llm/embedding_norm"),
            *layer_norm(f"{layer}.input_layernorm", f"{ours}/attention_norm"),
            *weight_and_bias(f"{layer}.self_attention.query_key_value", f"{ours}/query_key_value"),
            *weight_and_bias(f"{layer}.self_attention.dense", f"{ours}/dense", num_in_axes=2),
            *layer_norm(f"{layer}.post_attention_layernorm", f"{ours}/mlp_norm"),
            *weight_and_bias(f"{layer}.mlp.dense_h_to_4h", f"{ours}/dense_h_to_4h"),
            *weight_and_bias(f"{layer}.mlp.dense_4h_to_h", f"{ours}/dense_4h_to_h"),
            *layer_norm(f"{model}.ln_f", "llm/norm"),
        ]


class _HfBloom(Struct, frozen=True):
    """BloomConfig (transformers 4 and 5)."""

    vocab_size: Vocabulary = 250880
    hidden_size: Size = 64
    n_layer: Layers = 2
    n_head: Heads = 8
    layer_norm_epsilon: Epsilon = 1e-5
    tie_word_embeddings: bool = True
    bos_token_id: TokenId | Ids | None = None
    eos_token_id: TokenId | Ids | None = None
    pad_token_id: Padding | None = None


# Aliases of keys: transformers' attribute_map, and the files of the first release.
_HF_NAMES = {
    "n_embed": "hidden_size",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
}


class Bloom(nn.Module):
    """Decoder on embeddings; the same interface as models/language/decoder.py."""

    config: BloomConfig
    compute: Compute
    lora: LoraConfig | None = None

    def setup(self) -> None:
        config = self.config
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size, self.compute.dtype)
        self.embedding_norm = LayerNorm(config.layer_norm_eps)
        self.norm = LayerNorm(config.layer_norm_eps)

    def embed(self, ids: jax.Array) -> jax.Array:
        """int[B, L] -> [B, L, D], normalised. Media vectors are not: splice them in afterwards."""
        return self.embedding_norm(self.word_embeddings(ids))

    def head(self, hidden: jax.Array) -> jax.Array:
        """[B, L, D] -> float32[B, L, V]."""
        return self.word_embeddings.attend(hidden).astype(jnp.float32)

    @nn.compact
    def __call__(
        self,
        embeddings: jax.Array,
        mask: AttentionMask,
        cache: Cache | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, Cache]:
        """Runs the decoder; arguments and result as in `Decoder.__call__`."""
        x, new = apply_layers(
            partial(BloomBlock, self.config, self.compute, self.lora),
            self.config.num_layers,
            embeddings,
            cache,
            mask,
            scan=self.compute.scan_layers,
            remat=self.compute.remat,
            deterministic=deterministic,
        )
        return self.norm(x), new


class BloomBlock(nn.Module):
    """One decoder layer. Returns (x, the keys and values of its tokens)."""

    config: BloomConfig
    compute: Compute
    lora: LoraConfig | None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        past: Past | None,
        mask: AttentionMask,
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
        k, v, stored = cached_form(k, v, self.compute.cache_dtype)
        slopes = jnp.asarray(alibi_slopes(H))
        y = attend(q, k, v, mask, slopes, self.compute.attention, past)
        x += named("attention", project("dense", heads, embed, y))

        y = LayerNorm(config.layer_norm_eps, name="mlp_norm")(x)
        up = named("up", project("dense_h_to_4h", embed, mlp, y))
        x += project("dense_4h_to_h", mlp, embed, named("mlp", bloom_gelu(up)))
        self.sow("intermediates", "output", x)
        return x, stored


def alibi_slopes(num_heads: int) -> np.ndarray:
    """ALiBi's head slopes, float32[H] (arXiv 2108.12409); H need not be a power of two."""
    closest = 2 ** math.floor(math.log2(num_heads))
    base = 2.0 ** -(8.0 / closest)
    slopes = [base ** (i + 1) for i in range(closest)]
    extra = 2.0 ** -(4.0 / closest)
    slopes += [extra ** (2 * i + 1) for i in range(num_heads - closest)]
    return np.asarray(slopes, np.float32)
