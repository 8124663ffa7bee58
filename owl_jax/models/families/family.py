"""What a family of models says of its directories: config.json in and out, names of tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from owl_jax.models.config import OwlConfig
from owl_jax.models.hf_config import Source
from owl_jax.models.weight_names import Row


@dataclass(frozen=True)
class Family:
    """A family.

    model_type: of its config.json.
    read_config: config.json and the names of the directory's tensors as a description. Raises
      UserError for a value of another type or out of its range, and for what is not computed here.
    write_config: what `read_config` reads, given the dtype's name.
    weight_rows: the table of a model; it covers every leaf of its parts.
    tied: {tensor: the tensor that it may repeat}.
    """

    model_type: str
    read_config: Callable[[Source, Collection[str]], OwlConfig]
    write_config: Callable[[OwlConfig, str], dict[str, Any]]
    weight_rows: Callable[[OwlConfig], list[Row]]
    tied: Callable[[OwlConfig], Mapping[str, str]]
