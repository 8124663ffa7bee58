"""Qwen3 (arXiv 2505.09388): Qwen2 without biases, with queries and keys normalised in each head.

The head width is independent of the model width: the 4B model has 32 heads of 128 channels at
width 2,560.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from owl_jax.models.bounds import Heads, Layers, Length, Size, Theta, TokenId, Vocabulary
from owl_jax.models.language.decoder import HfDecoder, Width
from owl_jax.models.language.qwen2 import HfQwen, QwenConfig


class _HfQwen3(HfQwen, frozen=True):
    """Qwen3Config (transformers 4 and 5)."""

    head_dim: Size | None = 128


@dataclass(frozen=True)
class Qwen3Config(QwenConfig):
    """Qwen3; defaults are the 8B model's."""

    HF_CLASS: ClassVar = "Qwen3ForCausalLM"
    HF: ClassVar[type[HfDecoder]] = _HfQwen3
    QK_NORM: ClassVar = True

    vocab_size: Vocabulary = 151936
    hidden_size: Size = 4096
    intermediate_size: Size = 12288
    num_layers: Layers = 36
    num_heads: Heads = 32
    num_kv_heads: Heads = 8
    rope_theta: Theta = 1e6
    max_positions: Length = 40960
    bos_token_id: TokenId = 151643
    eos_token_id: TokenId = 151645
    pad_token_id: TokenId = 151643
    head_width: Width = 128
    architecture: Literal["qwen3"] = "qwen3"

    def to_hf(self) -> dict[str, Any]:
        return {**super().to_hf(), "attention_bias": False}
