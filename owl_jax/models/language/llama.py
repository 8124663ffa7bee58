"""LLaMA (arXiv 2302.13971): RMSNorm, rotary positions, SwiGLU, no biases, separate output head.

Letters: B batch, L tokens, D width, H heads, G key heads, K head width, F MLP width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from msgspec import UNSET, Struct, UnsetType

from owl_jax.errors import UserError, shown
from owl_jax.models.attention.dispatch import attend
from owl_jax.models.attention.mask import AttentionMask
from owl_jax.models.bounds import Epsilon, Heads, Layers, Length, Size, Theta, TokenId, Vocabulary
from owl_jax.models.cache import Cache, LayerCache
from owl_jax.models.compute import Compute
from owl_jax.models.hf_config import Ids, Padding, Source, token_ids
from owl_jax.models.layers import Embedding, Projection, RMSNorm
from owl_jax.models.lora import LoraConfig
from owl_jax.models.modality import Modality
from owl_jax.models.parts import LanguagePart, indivisible
from owl_jax.models.remat import named
from owl_jax.models.stack import apply_layers
from owl_jax.models.transforms import Linear, Same
from owl_jax.models.weight_names import Row


@dataclass(frozen=True)
class LlamaConfig(LanguagePart):
    """LLaMA; defaults are the 7B model's."""

    HEAD: ClassVar = ("lm_head",)
    BASE_PREFIX: ClassVar = "model."
    DEFINING: ClassVar = ("rope_theta", "rms_norm_eps")
    PROJECTIONS: ClassVar[tuple[str, ...]] = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )

    vocab_size: Vocabulary = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_layers: Layers = 32
    num_heads: Heads = 32
    num_kv_heads: Heads = 32
    rms_norm_eps: Epsilon = 1e-6
    rope_theta: Theta = 10000.0
    max_positions: Length = 2048
    bos_token_id: TokenId = 1
    eos_token_id: TokenId = 2
    pad_token_id: TokenId = 0
    architecture: Literal["llama"] = "llama"

    def build(self, compute: Compute, lora: LoraConfig | None) -> Llama:
        return Llama(self, compute, lora)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def max_length(self) -> int:
        return self.max_positions

    def problems(self, where: str) -> list[str]:
        pairs = ("hidden_size", "num_heads"), ("num_heads", "num_kv_heads")
        problems = indivisible(where, self, *pairs)
        if not problems and self.head_dim % 2:
            problems.append(
                f"{where}.hidden_size {self.hidden_size} over {where}.num_heads {self.num_heads} "
                "is odd: rotary positions rotate pairs of channels"
            )
        return problems

    def num_parameters(self) -> float:
        D = self.hidden_size
        layer = D * (4.0 * D + 3 * self.intermediate_size)
        return self.num_layers * layer + 2 * self.vocab_size * D

    def attention_flops(self, length: int) -> float:
        return 2.0 * self.num_layers * self.hidden_size * length**2

    @classmethod
    def from_hf(cls, source: Source) -> Self:
        if "max_sequence_length" in source.values:  # the name in files of 2023
            positions = source.values["max_sequence_length"]
            source = source.with_values({"max_position_embeddings": positions, **source.values})
        llama = source.read(_HfLlama)
        source.expect("hidden_act", llama.hidden_act, "silu", "owl_jax's LLaMA")
        heads = llama.num_attention_heads
        if llama.head_dim is not None and llama.head_dim * heads != llama.hidden_size:
            raise UserError(
                f"{source.path}: head_dim {llama.head_dim} x {heads} heads is not hidden_size "
                f"{llama.hidden_size}; owl_jax's LLaMA requires them to be equal"
            )
        return cls(
            vocab_size=llama.vocab_size,
            hidden_size=llama.hidden_size,
            intermediate_size=llama.intermediate_size,
            num_layers=llama.num_hidden_layers,
            num_heads=heads,
            num_kv_heads=llama.num_key_value_heads or heads,
            rms_norm_eps=llama.rms_norm_eps,
            rope_theta=_rope_theta(llama, source),
            max_positions=llama.max_position_embeddings,
            **token_ids(llama),
        )

    def to_hf(self) -> dict[str, Any]:
        return {
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "max_position_embeddings": self.max_positions,
            "tie_word_embeddings": False,
        }

    def weight_rows(self) -> list[Row]:
        """LlamaForCausalLM's names (transformers)."""
        layer, ours = "model.layers.{i}", "llm/layers"
        projections = [
            *[(f"self_attn.{name}_proj", f"{name}_proj", 1) for name in "qkv"],
            ("self_attn.o_proj", "o_proj", 2),
            *[(f"mlp.{name}_proj", f"{name}_proj", 1) for name in ("gate", "up", "down")],
        ]
        return [
            Row("model.embed_tokens.weight", "llm/embed_tokens/embedding", Same()),
            Row(f"{layer}.input_layernorm.weight", f"{ours}/attention_norm/scale", Same()),
            Row(f"{layer}.post_attention_layernorm.weight", f"{ours}/mlp_norm/scale", Same()),
            *[
                Row(f"{layer}.{source}.weight", f"{ours}/{target}/kernel", Linear(num_in_axes))
                for source, target, num_in_axes in projections
            ],
            Row("model.norm.weight", "llm/norm/scale", Same()),
            Row("lm_head.weight", "llm/lm_head/kernel", Linear()),
        ]


class _HfRope(Struct, frozen=True):
    """rope_parameters (transformers 5) and rope_scaling (4)."""

    rope_type: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    rope_theta: Theta | UnsetType = UNSET
    partial_rotary_factor: float = 1.0


class _HfLlama(Struct, frozen=True):
    """LlamaConfig (transformers 4 and 5)."""

    vocab_size: Vocabulary = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Layers = 32
    num_attention_heads: Heads = 32
    num_key_value_heads: Heads | None = None  # None: num_attention_heads
    max_position_embeddings: Length = 2048
    rms_norm_eps: Epsilon = 1e-6
    rope_theta: Theta | UnsetType = UNSET
    rope_parameters: _HfRope | None = None
    rope_scaling: _HfRope | None = None
    head_dim: Size | None = None
    hidden_act: str = "silu"
    partial_rotary_factor: float = 1.0
    tie_word_embeddings: bool = False
    bos_token_id: TokenId | Ids | None = None
    eos_token_id: TokenId | Ids | None = None
    pad_token_id: Padding | None = None


def _rope_theta(llama: _HfLlama, source: Source) -> float:
    """The base of rotary positions. Raises UserError if they are scaled or partial."""
    thetas = [llama.rope_theta]
    for rope in (llama.rope_parameters, llama.rope_scaling):
        if rope is None:
            continue
        kind = next((name for name in (rope.rope_type, rope.type) if name is not UNSET), "default")
        if kind != "default":
            raise UserError(
                f"{source.path}: rope of type {shown(kind)}; expected plain rotary positions"
            )
        factor = rope.partial_rotary_factor
        source.expect("partial_rotary_factor", factor, 1.0, "owl_jax's LLaMA")
        thetas.append(rope.rope_theta)
    source.expect("partial_rotary_factor", llama.partial_rotary_factor, 1.0, "owl_jax's LLaMA")
    found = {theta for theta in thetas if not isinstance(theta, UnsetType)}
    if len(found) > 1:
        raise UserError(f"{source.path}: two values of rope_theta, {sorted(found)}; expected one")
    return found.pop() if found else 10000.0


class Llama(nn.Module):
    """Decoder on embeddings: media vectors can be spliced in between `embed` and `__call__`.

    `embed` returns token embeddings, `__call__` hidden states, `head` logits.
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
        mask: AttentionMask,
        cache: Cache | None = None,
        deterministic: bool = True,
        modality: Modality | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Runs the decoder.

        Args:
          embeddings: [B, L, D], text and media.
          mask: of the sequences, or of these L queries over the cache's slots.
          cache: keys and values of the preceding tokens; only read.
          modality: which tokens are visual, for blocks that ask; None: none of them.

        Returns: (hidden states after the last norm [B, L, D], keys and values of these L tokens,
        structured like the cache). In training nothing uses the latter and XLA removes them.
        """
        rotation = rotary_tables(mask.query_positions, self.config.head_dim, self.config.rope_theta)
        x, new = apply_layers(
            partial(self.block(), self.config, self.compute, self.lora),
            self.config.num_layers,
            embeddings,
            cache,
            rotation,
            mask,
            modality,
            scan=self.compute.scan_layers,
            remat=self.compute.remat,
            deterministic=deterministic,
        )
        return self.norm(x), new

    @nn.nowrap
    def block(self) -> type[LlamaBlock]:
        """The class of a decoder layer."""
        return LlamaBlock


class LlamaBlock(nn.Module):
    """One decoder layer. Returns (x, the keys and values of its tokens).

    A subclass whose weights differ by modality overrides `norm` and `key_value`.
    """

    config: LlamaConfig
    compute: Compute
    lora: LoraConfig | None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        past: LayerCache | None,
        rotation: tuple[jax.Array, jax.Array],
        mask: AttentionMask,
        modality: Modality | None,
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
        y = self.norm("attention_norm", x, modality)
        q = named("query", rotate(project("q_proj", embed, heads, y), *rotation))
        k, v = self.key_value(lambda name, y: project(name, embed, key_heads, y), y, modality)
        k, v = named("key", rotate(k, *rotation)), named("value", v)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        y = attend(q, k, v, mask, None, self.compute.attention, past)
        x += named("attention", project("o_proj", heads, embed, y))

        y = self.norm("mlp_norm", x, modality)
        gate = named("gate", project("gate_proj", embed, mlp, y))
        up = named("up", project("up_proj", embed, mlp, y))
        x += project("down_proj", mlp, embed, named("mlp", nn.silu(gate) * up))
        self.sow("intermediates", "output", x)
        return x, {"k": k, "v": v}

    @nn.nowrap
    def norm(self, name: str, x: jax.Array, modality: Modality | None) -> jax.Array:
        """The norm `name` of x [B, L, D]."""
        return RMSNorm(self.config.rms_norm_eps, name=name)(x)

    @nn.nowrap
    def key_value(
        self,
        project: Callable[[str, jax.Array], jax.Array],
        y: jax.Array,
        modality: Modality | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Keys, not yet rotated, and values of y [B, L, D]; project: (name, y) -> [B, L, G, K]."""
        return project("k_proj", y), project("v_proj", y)


def rotary_tables(positions: jax.Array, width: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rotary angles, float32[B, L, 1, K] each (arXiv 2104.09864)."""
    frequencies = theta ** (-np.arange(0, width, 2, dtype=np.float32) / width)
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
    # A matmul duplicates the half width, because XLA materialises a matmul's input. Otherwise XLA
    # on CPU fuses the cosines into every unrolled layer and recomputes them for every head.
    duplicate = np.tile(np.eye(width // 2, dtype=np.float32), 2)
    cos, sin = (jnp.matmul(f(angles), duplicate, precision="highest") for f in (jnp.cos, jnp.sin))
    return cos, sin


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates [B, L, H, K] in float32; pairs are (i, i + K / 2), as in the released weights.

    A matmul with a constant matrix swaps the halves. On TPU this is faster than slicing and
    concatenation.
    """
    half = x.shape[-1] // 2
    eye = np.eye(half, dtype=np.float32)
    swap = np.block([[np.zeros_like(eye), eye], [-eye, np.zeros_like(eye)]])
    wide = x.astype(jnp.float32)
    swapped = jnp.matmul(x, swap.astype(x.dtype), preferred_element_type=jnp.float32)
    return (wide * cos + swapped * sin).astype(x.dtype)
