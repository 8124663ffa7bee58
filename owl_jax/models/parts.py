"""The interfaces of a model's three parts: vision encoder, connector, language model.

A part is one file: its config (a frozen dataclass that derives from one of these classes), its Flax
module, the names of its released weights and its FLOPs. `models/vision`, `models/connectors` and
`models/language` each hold a dict of the parts that there are. The rest of owl_jax knows parts by
these methods only.

Letters: B batch, N media, T frames, S tokens of an encoded frame, L tokens of a sequence, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import flax.linen as nn

from owl_jax.models.compute import Compute
from owl_jax.models.hf_config import Source
from owl_jax.models.weight_names import Row

# Of a parameter below its subtree: ("layers", "q_proj", "kernel").
Path = tuple[str, ...]


class Part(ABC):
    """What the config of every part has.

    INIT_ONLY names the fields that matter to newly initialised weights alone.
    """

    INIT_ONLY: ClassVar[tuple[str, ...]] = ()
    architecture: Any  # a Literal: the name in the dict of parts
    hidden_size: Any
    num_layers: Any

    @abstractmethod
    def problems(self, where: str) -> list[str]:
        """Sizes that do not fit each other, a line each. where: the part's key in messages."""

    @abstractmethod
    def num_parameters(self) -> float:
        """The parameters of its large kernels, roughly: a bound against absurd sizes."""


class VisionPart(Part):
    """A vision encoder: float[N, T, height, width, 3] normalised pixels -> [N, T, S, D]."""

    image_size: Any
    num_heads: Any
    MODEL_TYPES: ClassVar[tuple[str, ...]]  # model_type in config.json of a directory of its own

    @abstractmethod
    def build(self, compute: Compute) -> nn.Module: ...

    @property
    @abstractmethod
    def tokens_per_frame(self) -> int:
        """S."""

    @abstractmethod
    def tokens_through(self, path: Path, frames: int) -> int:
        """How many tokens of one medium a weight matrix multiplies."""

    @abstractmethod
    def attention_flops(self, frames: int) -> float:
        """Forward FLOPs of attention's two matmuls, all layers, one medium."""

    @classmethod
    @abstractmethod
    def from_hf(cls, source: Source) -> Self:
        """Reads config.json of a directory of its own. Raises UserError."""

    @abstractmethod
    def weight_rows(self) -> list[Row]:
        """The tensors of a directory of its own, targets below `vision/`."""

    @abstractmethod
    def ignores(self, tensor: str) -> bool:
        """Whether such a directory's tensor is of something else than the encoder."""


class ConnectorPart(Part):
    """A connector: [N, T, S, D_vision] -> [N, num_tokens, D_language]."""

    @abstractmethod
    def build(self, vision: VisionPart, language_width: int, compute: Compute) -> nn.Module: ...

    @abstractmethod
    def num_tokens(self, vision: VisionPart, frames: int) -> int:
        """Tokens of the sequence that a picture (one frame) or a video takes."""

    @abstractmethod
    def mismatches(self, vision: VisionPart, language_width: int) -> list[str]:
        """What keeps it from standing between these two, a line each."""

    @abstractmethod
    def tokens_through(self, path: Path, vision: VisionPart, frames: int) -> int:
        """How many tokens of one medium a weight matrix multiplies."""

    @abstractmethod
    def attention_flops(self, vision: VisionPart, frames: int) -> float:
        """Forward FLOPs of attention's two matmuls, all layers, one medium."""


class LanguagePart(Part):
    """A causal language model on embeddings (models/language/llama.py shows the module's methods).

    HEAD names the modules below `llm/` that the head reads. BASE_PREFIX is what tensors' names lack
    in a directory that was saved without a head. TIED is {tensor: the tensor that it may repeat}.
    DEFINING names the fields that weights' shapes do not tell.
    """

    HEAD: ClassVar[tuple[str, ...]]
    BASE_PREFIX: ClassVar[str]
    TIED: ClassVar[Mapping[str, str]] = {}
    DEFINING: ClassVar[tuple[str, ...]]
    PROJECTIONS: ClassVar[Sequence[str]]  # that LoRA can adapt
    vocab_size: Any
    num_heads: Any
    num_kv_heads: Any
    bos_token_id: Any
    eos_token_id: Any
    pad_token_id: Any

    @abstractmethod
    def build(self, compute: Compute, lora: Any) -> nn.Module: ...

    @property
    @abstractmethod
    def head_dim(self) -> int: ...

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Tokens of prompt and answer together that it is run with at most."""

    @abstractmethod
    def attention_flops(self, length: int) -> float:
        """Forward FLOPs of causal attention's two matmuls, all layers, one sequence."""

    @classmethod
    @abstractmethod
    def from_hf(cls, source: Source) -> Self:
        """Reads config.json, or the section of one. Raises UserError."""

    @abstractmethod
    def to_hf(self) -> dict[str, Any]:
        """What `from_hf` reads."""

    @abstractmethod
    def weight_rows(self) -> list[Row]:
        """The tensors of a directory of its own, targets below `llm/`."""


def indivisible(where: str, part: Any, *pairs: tuple[str, str]) -> list[str]:
    """A line for each pair of fields whose first is no multiple of the second."""
    sizes = [(one, getattr(part, one), other, getattr(part, other)) for one, other in pairs]
    return [
        f"{where}.{one} {size} is not a multiple of {where}.{other} {divisor}"
        for one, size, other, divisor in sizes
        if divisor < 1 or size % divisor
    ]
