"""LLaMA 1, 2 and 3 (arXiv 2302.13971, 2307.09288, 2407.21783).

LLaMA 2 doubles the positions and gives its largest model fewer key heads. Llama 3 has fewer key
heads in every model, a larger rotary base, scaled rotary positions (from 3.1 on) and, in small
models, a tied head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from owl_jax.models.hf_config import Source
from owl_jax.models.language.decoder import DecoderConfig


@dataclass(frozen=True)
class LlamaConfig(DecoderConfig):
    """LLaMA; defaults are the first 7B model's."""

    HF_CLASS: ClassVar = "LlamaForCausalLM"

    architecture: Literal["llama"] = "llama"

    @classmethod
    def from_hf(cls, source: Source) -> Self:
        if "max_sequence_length" in source.values:  # the name in files of 2023
            positions = source.values["max_sequence_length"]
            source = source.with_values({"max_position_embeddings": positions, **source.values})
        return super().from_hf(source)
