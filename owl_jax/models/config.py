"""Frozen descriptions of the model: what it is (OwlConfig) and how it is computed (Compute).

Defaults are the released mplug-owl-llama-7b (X-PLUG/mPLUG-Owl, configuration_mplug_owl.py).
Every field is hashable, so a config can be a static argument of `jax.jit`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import jax.numpy as jnp


@dataclass(frozen=True)
class VisionConfig:
    """CLIP ViT (arXiv 2103.00020); `temporal` adds the video release's temporal convolutions.

    `position_stddev` is for fresh weights only.
    """

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_layers: int = 24
    num_heads: int = 16
    layer_norm_eps: float = 1e-6
    temporal: bool = False
    position_stddev: float = 0.02

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class AbstractorConfig:
    """Visual abstractor: learned queries that attend to [queries; image tokens].

    `mlp_size` is the width that the weights have: the released image models use
    `intermediate_size` as it is, the video release rounds it (checkpoint/huggingface.py).
    `temporal` adds a second set of queries and their projection for videos of more than one frame.
    `query_stddev` is for fresh weights only; the original starts its queries at zero.
    """

    num_query_tokens: int = 64
    hidden_size: int = 1024
    mlp_size: int = 2816
    num_layers: int = 6
    num_heads: int = 16
    layer_norm_eps: float = 1e-6
    temporal: bool = False
    query_stddev: float = 0.0


@dataclass(frozen=True)
class LlamaConfig:
    """LLaMA (arXiv 2302.13971)."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_layers: int = 32
    num_heads: int = 32
    num_kv_heads: int = 32
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_positions: int = 2048
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0
    architecture: Literal["llama"] = "llama"

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class BloomConfig:
    """BLOOM (arXiv 2211.05100); defaults are bloomz-7b1."""

    vocab_size: int = 250880
    hidden_size: int = 4096
    num_layers: int = 30
    num_heads: int = 32
    layer_norm_eps: float = 1e-5
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 3
    architecture: Literal["bloom"] = "bloom"

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def num_kv_heads(self) -> int:
        return self.num_heads


LanguageConfig = LlamaConfig | BloomConfig


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation (arXiv 2106.09685) of the language model's projections `targets`."""

    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class OwlConfig:
    """The whole model. `lora` is None for a model without adapter."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    abstractor: AbstractorConfig = field(default_factory=AbstractorConfig)
    llm: LanguageConfig = field(default_factory=LlamaConfig)
    lora: LoraConfig | None = None

    @property
    def num_query_tokens(self) -> int:
        return self.abstractor.num_query_tokens

    @property
    def media_length(self) -> int:
        """Positions that one picture or video takes: the queries and the end vector."""
        return self.abstractor.num_query_tokens + 1

    @property
    def temporal(self) -> bool:
        """True for the video release."""
        return self.vision.temporal

    def problems(self) -> list[str]:
        """What keeps the sizes from being a model, a line each; empty if nothing does."""
        vision, abstractor, llm = self.vision, self.abstractor, self.llm
        divided = {
            "vision.image_size": (vision.image_size, "vision.patch_size", vision.patch_size),
            "vision.hidden_size": (vision.hidden_size, "vision.num_heads", vision.num_heads),
            "abstractor.hidden_size": (
                abstractor.hidden_size,
                "abstractor.num_heads",
                abstractor.num_heads,
            ),
            "llm.hidden_size": (llm.hidden_size, "llm.num_heads", llm.num_heads),
            "llm.num_heads": (llm.num_heads, "llm.num_kv_heads", llm.num_kv_heads),
        }
        problems = [
            f"{name} {size} is not a multiple of {by} {divisor}"
            for name, (size, by, divisor) in divided.items()
            if divisor < 1 or size % divisor
        ]
        if abstractor.hidden_size != vision.hidden_size:
            problems.append(
                f"abstractor.hidden_size {abstractor.hidden_size} is not vision.hidden_size "
                f"{vision.hidden_size}: its queries attend to themselves and to the image's patches"
            )
        return problems

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict; `OwlConfig.from_dict` reads it back."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> OwlConfig:
        """Reads what `to_dict` wrote. Raises TypeError for an unknown field."""
        llm = dict(values["llm"])
        language = {"llama": LlamaConfig, "bloom": BloomConfig}[llm.get("architecture", "llama")]
        lora = values.get("lora")
        if lora is not None:
            lora = LoraConfig(**{**lora, "targets": tuple(lora["targets"])})
        return OwlConfig(
            vision=VisionConfig(**values["vision"]),
            abstractor=AbstractorConfig(**values["abstractor"]),
            llm=language(**llm),
            lora=lora,
        )


@dataclass(frozen=True)
class Compute:
    """How the model is computed; changes no weight.

    dtype: of activations and matrix products; norms, softmax and loss stay in float32.
    attention: "auto" chooses by platform, or an implementation's name (models/attention.py).
    remat: what the backward pass keeps of a layer of the language model (models/remat.py).
    media_remat: the same of vision encoder and abstractor.
    scan_layers: one compiled layer for all (stacked weights), or one per layer (see stack.py).
    loss_tile: positions of each row whose logits are there at a time (training/loss.py); 0: all.
    """

    dtype: Any = jnp.float32
    attention: str = "auto"
    remat: str = "none"
    media_remat: str = "none"
    scan_layers: bool = True
    loss_tile: int = 0
