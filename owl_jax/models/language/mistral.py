"""Mistral 7B (arXiv 2310.06825): LLaMA with fewer key heads.

In version 0.1 a token attends to 4,096 tokens, itself included; later versions have no window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from owl_jax.models.bounds import Epsilon, Heads, Length, Size, Theta, Vocabulary
from owl_jax.models.language.decoder import DecoderConfig, HfDecoder, Window


class _HfMistral(HfDecoder, frozen=True):
    """MistralConfig (transformers 4 and 5)."""

    intermediate_size: Size = 14336
    num_key_value_heads: Heads | None = 8
    max_position_embeddings: Length = 131072
    sliding_window: Window | None = 4096


@dataclass(frozen=True)
class MistralConfig(DecoderConfig):
    """Mistral; defaults are those of 7B, version 0.3."""

    HF_CLASS: ClassVar = "MistralForCausalLM"
    HF: ClassVar = _HfMistral
    READS: ClassVar = ("sliding_window",)

    vocab_size: Vocabulary = 32768
    intermediate_size: Size = 14336
    num_kv_heads: Heads = 8
    rms_norm_eps: Epsilon = 1e-5
    rope_theta: Theta = 1e6
    max_positions: Length = 32768
    architecture: Literal["mistral"] = "mistral"

    def to_hf(self) -> dict[str, Any]:
        return {**super().to_hf(), "sliding_window": self.sliding_window or None}
