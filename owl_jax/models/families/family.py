"""Family: how to read and write the model directories of one family."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from owl_jax.models.config import OwlConfig
from owl_jax.models.hf_config import Source
from owl_jax.models.weight_names import Row


@dataclass(frozen=True)
class Family:
    """A model family.

    model_type: its value in config.json.
    read_config: (config.json, the directory's tensor names) -> config. Raises UserError for a value
      of the wrong type or out of range, and for a model that owl_jax cannot compute.
    write_config: (config, the dtype's name) -> config.json, the inverse of `read_config`.
    weight_rows: the table of weights, with a row for every parameter of the parts.
    tied: {tensor: the tensor that it may duplicate}.
    fits: whether the format can express a model's parts.
    mark: a tensor that only this family's weights have.
    language_prefix: before the names of the language model's own tensors.
    peft_base: what PEFT writes about the base model's class ("auto_mapping").
    reads_resizing: whether preprocessor_config.json says how images become squares.
    """

    model_type: str
    read_config: Callable[[Source, Collection[str]], OwlConfig]
    write_config: Callable[[OwlConfig, str], dict[str, Any]]
    weight_rows: Callable[[OwlConfig], list[Row]]
    tied: Callable[[OwlConfig], Mapping[str, str]]
    fits: Callable[[OwlConfig], bool]
    mark: str
    language_prefix: str = ""
    peft_base: Mapping[str, str] | None = None
    reads_resizing: bool = False
