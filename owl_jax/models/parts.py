"""The interfaces of a model's three parts: vision encoder, connector, language model.

A part is one file with its config (a frozen dataclass derived from one of these classes), its Flax
module, the names of its released weights and its FLOPs. `models/vision`, `models/connectors` and
`models/language` each hold a dict of the built-in parts. The rest of owl_jax uses parts only
through these methods.

Letters: B batch, N media, T frames, S tokens of an encoded frame, L tokens of a sequence, D width.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Self, TypeVar

import flax.linen as nn
import numpy as np

from owl_jax.errors import UserError
from owl_jax.models.compute import Compute
from owl_jax.models.hf_config import Source
from owl_jax.models.weight_names import Row
from owl_jax.python_file import explained

_T = TypeVar("_T", bound="VisionPart | LanguagePart")

# A parameter's path below its subtree: ("layers", "q_proj", "kernel").
Path = tuple[str, ...]


class Part(ABC):
    """The config of any part.

    INIT_ONLY names the fields that only weight initialisation reads. FIXED names the parameters
    that are never trained, whatever a config's rules say. DEFINING names the fields that the
    weights depend on but that their shapes do not show: weights of another value are refused.
    """

    INIT_ONLY: ClassVar[tuple[str, ...]] = ()
    FIXED: ClassVar[tuple[str, ...]] = ()
    DEFINING: ClassVar[tuple[str, ...]] = ()
    architecture: Any  # a Literal: the part's key in its dict

    @abstractmethod
    def problems(self, where: str) -> list[str]:
        """Inconsistent sizes, one line each. where: the part's key in messages."""

    def refitted(self, path: Path, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """A stored parameter, resized for this image size; None if it does not depend on that size.

        Only encoders and connectors are asked.
        path: relative to the subtree. shape: the parameter's shape in this model.
        """
        return None

    @abstractmethod
    def num_parameters(self) -> float:
        """Approximate number of parameters in the large kernels, for refusing absurd sizes."""


def is_own(part: type[Part]) -> bool:
    """Whether a part is a user's own, not one of this package."""
    return part.__module__.partition(".")[0] != "owl_jax"


@contextmanager
def faults_told(*parts: Part | type[Part]) -> Iterator[None]:
    """Turns exceptions into a UserError with file and line, if one of the parts is a user's own.

    Otherwise an exception is a bug of this package and stays one.
    """
    files = []
    for part in parts:
        kind = part if isinstance(part, type) else type(part)
        if is_own(kind):
            with suppress(TypeError, OSError):  # a class of a notebook has no file
                files.append(inspect.getfile(kind))
    if not files:
        yield
        return
    with explained("part of your own,", *files):
        yield


class VisionPart(Part):
    """A vision encoder: float[N, T, height, width, 3] normalised pixels -> [N, T, S, D].

    An encoder that has no standalone directories needs no MODEL_TYPES, `from_hf`, `weight_rows` or
    `ignores`.
    """

    image_size: Any
    hidden_size: Any
    num_layers: Any
    num_heads: Any
    # Channel statistics that normalise uint8 pixels.
    pixel_mean: Any
    pixel_std: Any
    # model_type in a standalone encoder's config.json
    MODEL_TYPES: ClassVar[tuple[str, ...]] = ()
    DEFINING: ClassVar[tuple[str, ...]] = ("pixel_mean", "pixel_std")
    # describes the tensors that `ignores` accepts, for messages
    OTHER_PARTS: ClassVar[str] = "tensors of other parts"

    @abstractmethod
    def build(self, compute: Compute) -> nn.Module: ...

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's patches; the output has them row by row."""

    @property
    @abstractmethod
    def num_prefix_tokens(self) -> int:
        """Output tokens before the patches: 1 for a class token, else 0."""

    @property
    def tokens_per_frame(self) -> int:
        """S."""
        return self.num_prefix_tokens + math.prod(self.grid)

    def at_layer(self, layer: int, class_token: bool) -> Self:
        """The encoder cut off after a layer, without the norm that follows the last layer.

        layer: transformers' index of the hidden state to return; -1 is the last layer's output.
        class_token: whether the output keeps the encoder's class token, if there is one.
        Raises ValueError for a hidden state that the encoder does not have.
        """
        raise ValueError(f"layer {layer}; {self.architecture} only gives its last output")

    def taken_from(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """This encoder's parameters, selected from those of the whole encoder (see `at_layer`).

        params and the result are subtrees of lazy arrays.
        """
        return params

    @abstractmethod
    def tokens_through(self, path: Path, frames: int) -> int:
        """Number of one medium's tokens that the weight matrix at `path` multiplies."""

    @abstractmethod
    def attention_flops(self, frames: int) -> float:
        """Forward FLOPs of attention's two matmuls, all layers, one medium."""

    @classmethod
    def from_hf(cls, source: Source) -> Self:
        """Reads the config.json of a standalone encoder. Raises UserError."""
        raise NotImplementedError(f"{cls.__name__} has MODEL_TYPES but no from_hf")

    def weight_rows(self) -> list[Row]:
        """The tensors of a standalone encoder's directory, with targets below `vision/`."""
        raise NotImplementedError(f"{type(self).__name__} has MODEL_TYPES but no weight_rows")

    def ignores(self, tensor: str) -> bool:
        """Whether a tensor in a standalone encoder's directory belongs to another part."""
        return False


class ConnectorPart(Part):
    """A connector: [N, T, S, D_vision] -> [N, num_tokens, D_language].

    A connector that needs a plain grid of patches refuses an encoder with a class token
    (`prefix_problems`).
    """

    @abstractmethod
    def build(self, vision: VisionPart, language_width: int, compute: Compute) -> nn.Module: ...

    @abstractmethod
    def num_tokens(self, vision: VisionPart, frames: int) -> int:
        """How many tokens an image (one frame) or a video takes in a sequence."""

    @abstractmethod
    def mismatches(self, vision: VisionPart, language_width: int) -> list[str]:
        """Sizes that do not fit the encoder or the language model, one line each."""

    @abstractmethod
    def tokens_through(self, path: Path, vision: VisionPart, frames: int) -> int:
        """Number of one medium's tokens that the weight matrix at `path` multiplies."""

    @abstractmethod
    def attention_flops(self, vision: VisionPart, frames: int) -> float:
        """Forward FLOPs of attention's two matmuls, all layers, one medium."""

    def weight_rows(self) -> list[Row]:
        """The tensors of a release, with targets below `connector/`; none by default."""
        return []


class LanguagePart(Part):
    """A causal language model on embeddings; models/language/decoder.py shows the module's methods.

    HF_CLASS: the transformers class whose directories `weight_rows` describes; "" for a model that
      has no standalone directories.
    BASE_PREFIX: the prefix that tensor names lack in a directory saved without the head.
    READS: keys of config.json that `from_hf` reads and other models refuse (models/hf_config.py).
    USES_MODALITY: whether the module's `__call__` takes `modality` (models/modality.py).
    EXTENDS: another architecture whose weights `extended` accepts.
    """

    HF_CLASS: ClassVar[str] = ""
    BASE_PREFIX: ClassVar[str] = ""
    READS: ClassVar[tuple[str, ...]] = ()
    PROJECTIONS: ClassVar[Sequence[str]] = ()  # LoRA can adapt these
    USES_MODALITY: ClassVar[bool] = False
    EXTENDS: ClassVar[str | None] = None
    vocab_size: Any
    hidden_size: Any
    num_layers: Any
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
    def head_modules(self) -> tuple[str, ...]:
        """The modules below `llm/` that the head reads."""

    @property
    def tied_tensors(self) -> Mapping[str, str]:
        """{tensor: the tensor that it may duplicate} if the embedding is also the output head."""
        return {}

    @property
    @abstractmethod
    def max_length(self) -> int:
        """The maximum number of tokens in prompt and answer together."""

    def tokens_through(self, path: Path, length: int, media_tokens: int) -> int:
        """Number of a sequence's tokens that the weight matrix at `path` multiplies.

        media_tokens: the number of tokens in all of the sequence's media slots.
        """
        return length

    def extended(self, llm: Mapping[str, Any]) -> Mapping[str, Any]:
        """Initial weights for this model, from the subtree `llm` of a model of type EXTENDS."""
        return llm

    @abstractmethod
    def attention_flops(self, length: int) -> float:
        """Forward FLOPs of causal attention's two matmuls, all layers, one sequence."""

    @classmethod
    @abstractmethod
    def from_hf(cls, source: Source) -> Self:
        """Reads a config.json or a section of one. Raises UserError."""

    @abstractmethod
    def to_hf(self) -> dict[str, Any]:
        """The inverse of `from_hf`."""

    @abstractmethod
    def weight_rows(self) -> list[Row]:
        """The tensors of a standalone model's directory, with targets below `llm/`."""


def from_hf(kind: type[_T], source: Source) -> _T:
    """`kind.from_hf`. Raises UserError also for a user's own that fails or returns nothing."""
    with faults_told(kind):
        part = kind.from_hf(source)
    if not isinstance(part, kind):
        raise UserError(
            f"{source.path}: from_hf of {kind.__name__} returned {type(part).__name__}; expected "
            f"{kind.__name__}"
        )
    return part


def indivisible(where: str, part: Any, *pairs: tuple[str, str]) -> list[str]:
    """One line for each pair whose first field is not a multiple of the second."""
    sizes = [(name, getattr(part, name), by, getattr(part, by)) for name, by in pairs]
    return [
        f"{where}.{name} {size} is not a multiple of {where}.{by} {divisor}"
        for name, size, by, divisor in sizes
        if divisor < 1 or size % divisor
    ]


def prefix_problems(part: ConnectorPart, vision: VisionPart) -> list[str]:
    """A line if the encoder's output is not a plain grid of patches."""
    if not vision.num_prefix_tokens:
        return []
    is_optional = hasattr(vision, "class_token_output")
    advice = "set vision.class_token_output=False" if is_optional else "use an encoder without it"
    return [
        f"connector {part.architecture} needs a grid of patches, but {vision.architecture} puts a "
        f"class token before it; {advice}"
    ]
