"""Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): LLaMA with biases on queries, keys and values.

Small models have a tied head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from owl_jax.models.bounds import Heads, Layers, Length, Size, Theta, TokenId, Vocabulary
from owl_jax.models.hf_config import Source
from owl_jax.models.language.decoder import DecoderConfig, HfDecoder


class HfQwen(HfDecoder, frozen=True):
    """Qwen2Config (transformers 4 and 5)."""

    vocab_size: Vocabulary = 151936
    intermediate_size: Size = 22016
    num_key_value_heads: Heads | None = 32
    max_position_embeddings: Length = 32768


@dataclass(frozen=True)
class QwenConfig(DecoderConfig):
    """What Qwen2 and Qwen3 share: config.json has a window that they do not use."""

    HF: ClassVar[type[HfDecoder]] = HfQwen
    READS: ClassVar = ("sliding_window",)  # without effect unless use_sliding_window is true

    @classmethod
    def from_hf(cls, source: Source) -> Self:
        return super().from_hf(source.with_values({**source.values, "sliding_window": None}))

    def to_hf(self) -> dict[str, Any]:
        return {**super().to_hf(), "use_sliding_window": False}


@dataclass(frozen=True)
class Qwen2Config(QwenConfig):
    """Qwen2; defaults are Qwen2.5-7B-Instruct's."""

    HF_CLASS: ClassVar = "Qwen2ForCausalLM"
    BIASES: ClassVar = ("q_proj", "k_proj", "v_proj")

    vocab_size: Vocabulary = 152064
    hidden_size: Size = 3584
    intermediate_size: Size = 18944
    num_layers: Layers = 28
    num_heads: Heads = 28
    num_kv_heads: Heads = 4
    rope_theta: Theta = 1e6
    max_positions: Length = 32768
    bos_token_id: TokenId = 151643
    eos_token_id: TokenId = 151645
    pad_token_id: TokenId = 151643
    architecture: Literal["qwen2"] = "qwen2"
