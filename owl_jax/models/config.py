"""Frozen descriptions of the model: what it is (OwlConfig) and how it is computed (Compute).

Defaults are the released mplug-owl-llama-7b (X-PLUG/mPLUG-Owl, configuration_mplug_owl.py).
Every field is hashable, so a config can be a static argument of `jax.jit`. The fields' types
hold their ranges (models/bounds.py): `OwlConfig.from_dict` checks what comes from a file.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import jax.numpy as jnp

from owl_jax.errors import listed, shown
from owl_jax.models.bounds import (
    Alpha,
    Deviation,
    Dropout,
    Epsilon,
    Heads,
    Layers,
    Length,
    Name,
    Pixels,
    QueryTokens,
    Rank,
    Size,
    Theta,
    TokenId,
    Vocabulary,
    checked,
)

# The most that a description may amount to; the largest published models have half of it.
_MOST_PARAMETERS = 2e12


@dataclass(frozen=True)
class VisionConfig:
    """CLIP ViT (arXiv 2103.00020); `temporal` adds the video release's temporal convolutions.

    `position_stddev` is for fresh weights only.
    """

    image_size: Pixels = 224
    patch_size: Pixels = 14
    hidden_size: Size = 1024
    intermediate_size: Size = 4096
    num_layers: Layers = 24
    num_heads: Heads = 16
    layer_norm_eps: Epsilon = 1e-6
    temporal: bool = False
    position_stddev: Deviation = 0.02

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

    num_query_tokens: QueryTokens = 64
    hidden_size: Size = 1024
    mlp_size: Size = 2816
    num_layers: Layers = 6
    num_heads: Heads = 16
    layer_norm_eps: Epsilon = 1e-6
    temporal: bool = False
    query_stddev: Deviation = 0.0


@dataclass(frozen=True)
class LlamaConfig:
    """LLaMA (arXiv 2302.13971)."""

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

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class BloomConfig:
    """BLOOM (arXiv 2211.05100); defaults are bloomz-7b1."""

    vocab_size: Vocabulary = 250880
    hidden_size: Size = 4096
    num_layers: Layers = 30
    num_heads: Heads = 32
    layer_norm_eps: Epsilon = 1e-5
    bos_token_id: TokenId = 1
    eos_token_id: TokenId = 2
    pad_token_id: TokenId = 3
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

    rank: Rank = 8
    alpha: Alpha = 32.0
    dropout: Dropout = 0.05
    targets: tuple[Name, ...] = ("q_proj", "v_proj")

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
        problems = vision_problems(vision)
        problems += _indivisible("abstractor", abstractor, ("hidden_size", "num_heads"))
        problems += language_problems(llm)
        if abstractor.hidden_size != vision.hidden_size:
            problems.append(
                f"abstractor.hidden_size {abstractor.hidden_size} is not vision.hidden_size "
                f"{vision.hidden_size}: its queries attend to themselves and to the image's patches"
            )
        if (number := _roughly(self)) > _MOST_PARAMETERS:
            problems.append(
                f"its sizes make {number:.1e} parameters; expected at most {_MOST_PARAMETERS:.0e}"
            )
        return problems

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict; `OwlConfig.from_dict` reads it back."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> OwlConfig:
        """Reads what `to_dict` wrote; what it lacks has the defaults, but for the four parts.

        Raises TypeError, one line, for a value of another type or out of its range, an unknown
        field or a missing part. Whether sizes fit each other is what `problems` says.
        """
        if not isinstance(values, dict):
            raise TypeError(f"expected a description of a model, found {type(values).__name__}")
        parts = ("vision", "abstractor", "llm")
        for name in parts:
            if not isinstance(values.get(name), dict):
                raise TypeError(f"no value for {name!r}; expected {', '.join(parts)}")
        if unknown := sorted(map(str, values.keys() - {*parts, "lora"})):
            raise TypeError(f"unknown key {listed(map(shown, unknown))}")
        architecture = values["llm"].get("architecture", "llama")
        languages: dict[Any, type[LlamaConfig | BloomConfig]]
        languages = {"llama": LlamaConfig, "bloom": BloomConfig}
        if not isinstance(architecture, str) or architecture not in languages:
            raise TypeError(
                f"llm.architecture is {shown(architecture)}; expected {' or '.join(languages)}"
            )
        lora = values.get("lora")
        return OwlConfig(
            vision=checked(values["vision"], VisionConfig, "vision"),
            abstractor=checked(values["abstractor"], AbstractorConfig, "abstractor"),
            llm=checked(values["llm"], languages[architecture], "llm"),
            lora=None if lora is None else checked(lora, LoraConfig, "lora"),
        )


def vision_problems(vision: VisionConfig) -> list[str]:
    """What keeps a vision encoder's sizes from fitting each other, a line each."""
    return _indivisible(
        "vision", vision, ("image_size", "patch_size"), ("hidden_size", "num_heads")
    )


def language_problems(llm: LanguageConfig) -> list[str]:
    """What keeps a language model's sizes from fitting each other, a line each."""
    problems = _indivisible("llm", llm, ("hidden_size", "num_heads"), ("num_heads", "num_kv_heads"))
    if isinstance(llm, LlamaConfig) and not problems and llm.head_dim % 2:
        problems.append(
            f"llm.hidden_size {llm.hidden_size} over llm.num_heads {llm.num_heads} is odd: rotary "
            "positions turn pairs"
        )
    return problems


def id_problems(llm: LanguageConfig) -> list[str]:
    """The ids that are none of the vocabulary's, a line each."""
    return [
        f"{name} is {value}; expected one of the vocabulary's {llm.vocab_size}"
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        if not 0 <= (value := getattr(llm, name)) < llm.vocab_size
    ]


def _indivisible(name: str, part: Any, *pairs: tuple[str, str]) -> list[str]:
    sizes = [(one, getattr(part, one), other, getattr(part, other)) for one, other in pairs]
    return [
        f"{name}.{one} {size} is not a multiple of {name}.{other} {divisor}"
        for one, size, other, divisor in sizes
        if divisor < 1 or size % divisor
    ]


def _roughly(config: OwlConfig) -> float:
    """How many parameters the large kernels have."""
    vision, abstractor, llm = config.vision, config.abstractor, config.llm
    kernels = 2 if isinstance(llm, BloomConfig) else 3
    mlp = 4 * llm.hidden_size if isinstance(llm, BloomConfig) else llm.intermediate_size
    layers: list[tuple[Any, int]] = [
        (vision, 4 * vision.hidden_size + 2 * vision.intermediate_size),
        (abstractor, 4 * abstractor.hidden_size + 3 * abstractor.mlp_size),
        (llm, 4 * llm.hidden_size + kernels * mlp),
    ]
    total = sum(part.num_layers * part.hidden_size * width for part, width in layers)
    patches = vision.num_patches if vision.patch_size > 0 else 0
    return total + 2 * llm.vocab_size * llm.hidden_size + patches * vision.hidden_size


@dataclass(frozen=True)
class Compute:
    """How the model is computed; changes no weight.

    dtype: of activations and matrix products; norms, softmax and loss stay in float32.
    attention: "auto" chooses by platform, or an implementation's name (models/attention.py).
    remat: what the backward pass keeps of a layer of the language model (models/remat.py).
    media_remat: the same of vision encoder and abstractor.
    scan_layers: one compiled layer for all (stacked weights), or one per layer (see stack.py).
    loss_tile: positions of each row whose logits are there at a time; 0: all
      (training/objectives/cross_entropy.py).
    """

    dtype: Any = jnp.float32
    attention: str = "auto"
    remat: str = "none"
    media_remat: str = "none"
    scan_layers: bool = True
    loss_tile: int = 0
