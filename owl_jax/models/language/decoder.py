"""The decoder that LLaMA, Mistral and Qwen share: RMSNorm, rotary positions, SwiGLU.

`DecoderConfig` has everything that these models have in common; each model's file has what differs.
Letters: B batch, L tokens, D width, H heads, G key heads, K head width, F MLP width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from msgspec import UNSET, Meta, Struct, UnsetType

from owl_jax.errors import UserError, shown
from owl_jax.models.attention.dispatch import attend
from owl_jax.models.attention.mask import AttentionMask
from owl_jax.models.bounds import Epsilon, Heads, Layers, Length, Size, Theta, TokenId, Vocabulary
from owl_jax.models.cache import Cache, LayerCache, Past
from owl_jax.models.compute import Compute
from owl_jax.models.hf_config import SPECIAL_IDS, Ids, Padding, Source, token_ids
from owl_jax.models.int8_cache import cached_form
from owl_jax.models.language.rope import (
    PLAIN,
    Factor,
    HfRope,
    RopeScaling,
    RopeType,
    read_rope,
    rotary_tables,
    rotate,
)
from owl_jax.models.layers import Embedding, Projection, RMSNorm
from owl_jax.models.lora import LoraConfig
from owl_jax.models.modality import Modality
from owl_jax.models.parts import LanguagePart, indivisible
from owl_jax.models.remat import named
from owl_jax.models.stack import apply_layers
from owl_jax.models.transforms import Flat, Linear, Same
from owl_jax.models.weight_names import Row

Width = Annotated[int, Meta(ge=0, le=1 << 20)]  # 0: hidden_size / num_heads
Window = Annotated[int, Meta(ge=0, le=1 << 24)]  # in tokens; 0: none

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


class HfDecoder(Struct, frozen=True):
    """LlamaConfig (transformers 4 and 5); the other models' classes differ in defaults."""

    vocab_size: Vocabulary = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Layers = 32
    num_attention_heads: Heads = 32
    num_key_value_heads: Heads | None = None  # None: num_attention_heads
    max_position_embeddings: Length = 2048
    rms_norm_eps: Epsilon = 1e-6
    rope_theta: Theta | UnsetType = UNSET
    rope_parameters: HfRope | None = None
    rope_scaling: HfRope | None = None
    head_dim: Size | None = None  # None: hidden_size / num_attention_heads
    hidden_act: str = "silu"
    partial_rotary_factor: float = 1.0
    tie_word_embeddings: bool = False
    sliding_window: Window | None = None
    layer_types: Annotated[list[str], Meta(max_length=1024)] | None = None
    bos_token_id: TokenId | Ids | None = None
    eos_token_id: TokenId | Ids | None = None
    pad_token_id: Padding | None = None


@dataclass(frozen=True)
class DecoderConfig(LanguagePart):
    """The fields that these models share; each model's class adds `architecture` and its defaults.

    HF lists the keys of its config.json. BIASES names the projections that have a bias. QK_NORM:
    whether queries and keys are normalised in each head.

    head_width: 0 means hidden_size / num_heads. sliding_window: a token attends to this many
      tokens, itself included; 0 means all before it too. tied: the embedding is also the output
      head.
    """

    HF: ClassVar[type[HfDecoder]] = HfDecoder
    BIASES: ClassVar[tuple[str, ...]] = ()
    QK_NORM: ClassVar[bool] = False
    BASE_PREFIX: ClassVar = "model."
    DEFINING: ClassVar = (
        *("rope_theta", "rms_norm_eps", "tied", "sliding_window", "rope_type", "rope_factor"),
        *("rope_low_freq_factor", "rope_high_freq_factor", "rope_original_positions"),
    )
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
    head_width: Width = 0
    tied: bool = False
    sliding_window: Window = 0
    rope_type: RopeType = "default"
    rope_factor: Factor = PLAIN.factor
    rope_low_freq_factor: Factor = PLAIN.low_freq_factor
    rope_high_freq_factor: Factor = PLAIN.high_freq_factor
    rope_original_positions: Length = PLAIN.original_positions

    def build(self, compute: Compute, lora: LoraConfig | None) -> Decoder:
        return Decoder(self, compute, lora)

    @property
    def head_dim(self) -> int:
        return self.head_width or self.hidden_size // self.num_heads

    @property
    def max_length(self) -> int:
        return self.max_positions

    @property
    def head_modules(self) -> tuple[str, ...]:
        return ("embed_tokens",) if self.tied else ("lm_head",)

    @property
    def tied_tensors(self) -> Mapping[str, str]:
        return {_HEAD: _EMBEDDING} if self.tied else {}

    @property
    def rope_scaling(self) -> RopeScaling:
        return RopeScaling(
            self.rope_type,
            self.rope_factor,
            self.rope_low_freq_factor,
            self.rope_high_freq_factor,
            self.rope_original_positions,
        )

    def problems(self, where: str) -> list[str]:
        problems = indivisible(where, self, ("num_heads", "num_kv_heads"))
        if not self.head_width:
            problems = indivisible(where, self, ("hidden_size", "num_heads")) + problems
        if not problems and self.head_dim % 2:
            width = (
                f"{where}.head_width {self.head_width}"
                if self.head_width
                else f"{where}.hidden_size {self.hidden_size} over {where}.num_heads "
                f"{self.num_heads}"
            )
            problems.append(f"{width} is odd: rotary positions rotate pairs of channels")
        low, high = self.rope_low_freq_factor, self.rope_high_freq_factor
        if low >= high:
            problems.append(
                f"{where}.rope_low_freq_factor is {low} and rope_high_freq_factor {high}; expected "
                "the first to be smaller"
            )
        return problems

    def num_parameters(self) -> float:
        D, K = self.hidden_size, self.head_dim
        attention = 2.0 * K * (self.num_heads + self.num_kv_heads)
        layer = D * (attention + 3 * self.intermediate_size)
        return self.num_layers * layer + (2 - self.tied) * self.vocab_size * D

    def attention_flops(self, length: int) -> float:
        return 2.0 * self.num_layers * self.num_heads * self.head_dim * length**2

    @classmethod
    def from_hf(cls, source: Source) -> Self:
        hf = source.read(cls.HF)
        owner = f"owl_jax's {source.values.get('model_type') or 'decoder'}"
        source.expect("hidden_act", hf.hidden_act, "silu", owner)
        if others := {*(hf.layer_types or ())} - {"full_attention"}:
            raise UserError(
                f"{source.path}: layer_types has {shown(min(others))}; {owner} has full_attention "
                "in all layers"
            )
        theta, scaling = read_rope(hf, source, owner)
        heads, width = hf.num_attention_heads, hf.head_dim or 0
        values: dict[str, Any] = {
            "vocab_size": hf.vocab_size,
            "hidden_size": hf.hidden_size,
            "intermediate_size": hf.intermediate_size,
            "num_layers": hf.num_hidden_layers,
            "num_heads": heads,
            "num_kv_heads": hf.num_key_value_heads or heads,
            "rms_norm_eps": hf.rms_norm_eps,
            "rope_theta": theta,
            "max_positions": hf.max_position_embeddings,
            "head_width": width if cls.head_width or width * heads != hf.hidden_size else 0,
            "tied": hf.tie_word_embeddings,
            "sliding_window": hf.sliding_window or 0,
            "rope_type": scaling.type,
            "rope_factor": scaling.factor,
            "rope_low_freq_factor": scaling.low_freq_factor,
            "rope_high_freq_factor": scaling.high_freq_factor,
            "rope_original_positions": scaling.original_positions,
        }
        return cls(**values | _ids_in_vocabulary(cls, token_ids(hf), hf.vocab_size))

    def to_hf(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "model_type": self.architecture,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "max_position_embeddings": self.max_positions,
            "tie_word_embeddings": self.tied,
        }
        if self.rope_type != "default":
            values["rope_scaling"] = {"rope_type": self.rope_type, "factor": self.rope_factor}
        if self.rope_type == "llama3":
            values["rope_scaling"] |= {
                "low_freq_factor": self.rope_low_freq_factor,
                "high_freq_factor": self.rope_high_freq_factor,
                "original_max_position_embeddings": self.rope_original_positions,
            }
        return values

    def weight_rows(self) -> list[Row]:
        """LlamaForCausalLM's names (transformers), which the other models use too."""
        layer, ours = "model.layers.{i}", "llm/layers"
        projections = [
            *[(f"self_attn.{name}_proj", f"{name}_proj", 1) for name in "qkv"],
            ("self_attn.o_proj", "o_proj", 2),
            *[(f"mlp.{name}_proj", f"{name}_proj", 1) for name in ("gate", "up", "down")],
        ]
        rows = [
            Row(_EMBEDDING, "llm/embed_tokens/embedding", Same()),
            Row(f"{layer}.input_layernorm.weight", f"{ours}/attention_norm/scale", Same()),
            Row(f"{layer}.post_attention_layernorm.weight", f"{ours}/mlp_norm/scale", Same()),
            *[
                Row(f"{layer}.{name}.weight", f"{ours}/{target}/kernel", Linear(num_in_axes))
                for name, target, num_in_axes in projections
            ],
            *[
                Row(f"{layer}.{name}.bias", f"{ours}/{target}/bias", Flat())
                for name, target, _ in projections
                if target in self.BIASES
            ],
        ]
        if self.QK_NORM:
            rows += [
                Row(f"{layer}.self_attn.{name}.weight", f"{ours}/{name}/scale", Same())
                for name in ("q_norm", "k_norm")
            ]
        rows.append(Row("model.norm.weight", "llm/norm/scale", Same()))
        if not self.tied:
            rows.append(Row(_HEAD, "llm/lm_head/kernel", Linear()))
        return rows


def _ids_in_vocabulary(
    kind: type[DecoderConfig], found: Mapping[str, int], vocab_size: int
) -> dict[str, int]:
    """The special ids of a file. Missing ids get the model's defaults, or 0 where the vocabulary is
    too small for those."""
    small = {name: 0 for name in SPECIAL_IDS if getattr(kind, name) >= vocab_size}
    return {**small, **found}


class Decoder(nn.Module):
    """Decoder on embeddings: media vectors can be spliced in between `embed` and `__call__`.

    `embed` returns token embeddings, `__call__` hidden states, `head` logits.
    """

    config: DecoderConfig
    compute: Compute
    lora: LoraConfig | None = None

    def setup(self) -> None:
        config, dtype = self.config, self.compute.dtype
        D, V = config.hidden_size, config.vocab_size
        self.embed_tokens = Embedding(V, D, dtype)
        self.norm = RMSNorm(config.rms_norm_eps)
        if not config.tied:
            self.lm_head = Projection({"embed": D}, {"vocab": V}, dtype=dtype)

    def embed(self, ids: jax.Array) -> jax.Array:
        """int[B, L] -> [B, L, D]."""
        return self.embed_tokens(ids)

    def head(self, hidden: jax.Array) -> jax.Array:
        """[B, L, D] -> float32[B, L, V]."""
        head = self.embed_tokens.attend if self.config.tied else self.lm_head
        return head(hidden).astype(jnp.float32)

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
          mask: of these tokens, and of the cache if there is one.
          cache: keys and values of the preceding tokens; only read.
          modality: which tokens are visual, for blocks that use it; None: no token is.

        Returns: (hidden states after the last norm [B, L, D], keys and values of these L tokens,
        structured like the cache). In training nothing uses the latter and XLA removes them.
        """
        config = self.config
        rotation = rotary_tables(
            mask.query_positions, config.head_dim, config.rope_theta, config.rope_scaling
        )
        x, new = apply_layers(
            partial(self.block(), config, self.compute, self.lora),
            config.num_layers,
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
    def block(self) -> type[DecoderBlock]:
        """The class of a decoder layer."""
        return DecoderBlock


class DecoderBlock(nn.Module):
    """One decoder layer. Returns (x, the keys and values of its tokens).

    A subclass whose weights differ by modality overrides `norm` and `key_value`.
    """

    config: DecoderConfig
    compute: Compute
    lora: LoraConfig | None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        past: Past | None,
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
                in_axes, out_axes, name in config.BIASES, self.compute.dtype, self.lora, name=name
            )
            return nn.with_logical_constraint(
                layer(x, deterministic), ("batch", "length", *(f"act_{axis}" for axis in out_axes))
            )

        x = named("input", x)
        y = self.norm("attention_norm", x, modality)
        q = self.head_norm("q_norm", project("q_proj", embed, heads, y))
        q = named("query", rotate(q, *rotation))
        k, v = self.key_value(lambda name, y: project(name, embed, key_heads, y), y, modality)
        k, v = self.head_norm("k_norm", k), named("value", v)
        k = named("key", rotate(k, *rotation))
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        k, v, stored = cached_form(k, v, self.compute.cache_dtype)
        y = attend(q, k, v, mask, None, self.compute.attention, past, window=config.sliding_window)
        x += named("attention", project("o_proj", heads, embed, y))

        y = self.norm("mlp_norm", x, modality)
        gate = named("gate", project("gate_proj", embed, mlp, y))
        up = named("up", project("up_proj", embed, mlp, y))
        x += project("down_proj", mlp, embed, named("mlp", nn.silu(gate) * up))
        self.sow("intermediates", "output", x)
        return x, stored

    @nn.nowrap
    def norm(self, name: str, x: jax.Array, modality: Modality | None) -> jax.Array:
        """The norm `name` of x [B, L, D]."""
        return RMSNorm(self.config.rms_norm_eps, name=name)(x)

    @nn.nowrap
    def head_norm(self, name: str, x: jax.Array) -> jax.Array:
        """Queries or keys [B, L, H, K], normalised in each head if the model has QK_NORM."""
        if not self.config.QK_NORM:
            return x
        return RMSNorm(self.config.rms_norm_eps, ("kv",), name=name)(x)

    @nn.nowrap
    def key_value(
        self,
        project: Callable[[str, jax.Array], jax.Array],
        y: jax.Array,
        modality: Modality | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Keys (not yet rotated) and values of y [B, L, D]; project: (name, y) -> [B, L, G, K]."""
        return project("k_proj", y), project("v_proj", y)
