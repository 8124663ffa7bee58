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

    holds: whether a model has the parts of this family.
    read_config: (config.json, the directory's tensor names) -> config. Raises UserError for a value
      of the wrong type or out of range, and for a model that owl_jax cannot compute.
    write_config: (config, the dtype's name) -> config.json, the inverse of `read_config`.
    weight_rows: the table of weights, with a row for every parameter of the parts.
    tied: {tensor: the tensor that it may duplicate}.
    """

    holds: Callable[[OwlConfig], bool]
    read_config: Callable[[Source, Collection[str]], OwlConfig]
    write_config: Callable[[OwlConfig, str], dict[str, Any]]
    weight_rows: Callable[[OwlConfig], list[Row]]
    tied: Callable[[OwlConfig], Mapping[str, str]]
