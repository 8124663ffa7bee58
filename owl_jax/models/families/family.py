"""Family: how to read and write the model directories of one family."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from owl_jax.models.config import OwlConfig
from owl_jax.models.hf_config import Source
from owl_jax.models.weight_names import Row
from owl_jax.text.formats import OWL

TOWER_CONFIG = "vision_tower_config"


@dataclass(frozen=True)
class Family:
    """A model family.

    model_type: its value in config.json; "" if there are several.
    read_config: (config.json, the directory's tensor names) -> config. Raises UserError for a value
      of the wrong type or out of range, and for a model that owl_jax cannot compute.
    write_config: (config, the dtype's name) -> config.json, the inverse of `read_config`.
    weight_rows: the table of weights, with a row for every parameter of the parts.
    fits: whether the format can express a model's parts.
    mark: a tensor that only this family's weights have; "" if there is none.
    language_prefix: the prefix of the language model's tensor names.
    peft_base: what PEFT writes about the base model's class ("auto_mapping").
    reads_resizing: whether preprocessor_config.json determines how images become squares.
    ignores: (config, tensor) -> whether owl_jax leaves the tensor unused.
    defaults: entries of config.json that apply unless the source config.json or `write_config` has
      them.
    spellings: {prefix of tensor names: its spellings in other versions' files}; all can be read.
    tower: the key of config.json that names the directory of the vision tower. Its config.json is
      read as the section TOWER_CONFIG, and its weights if the model's files lack them. A file with
      a section "vision_config" needs no such directory.
    tower_prefix: the prefix of the tower's tensor names in the model's own files.
    conversation: the name of its conversation format; "" if it depends on the directory.
    """

    model_type: str
    read_config: Callable[[Source, Collection[str]], OwlConfig]
    write_config: Callable[[OwlConfig, str], dict[str, Any]]
    weight_rows: Callable[[OwlConfig], list[Row]]
    fits: Callable[[OwlConfig], bool]
    mark: str = ""
    language_prefix: str = ""
    peft_base: Mapping[str, str] | None = None
    reads_resizing: bool = False
    ignores: Callable[[OwlConfig, str], bool] = lambda config, tensor: False
    defaults: Callable[[OwlConfig], dict[str, Any]] = lambda config: {}
    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tower: str | None = None
    tower_prefix: str = ""
    conversation: str = OWL.name

    def renaming(self, names: Collection[str]) -> Callable[[str], str]:
        """Maps this family's tensor names to those of files that another version may have written.

        names: of the files' tensors.
        """
        found = {
            prefix: next(
                (
                    spelling
                    for spelling in (prefix, *others)
                    if any(name.startswith(spelling) for name in names)
                ),
                prefix,
            )
            for prefix, others in self.spellings.items()
        }

        def rename(name: str) -> str:
            for prefix, spelling in found.items():
                if name.startswith(prefix):
                    return spelling + name.removeprefix(prefix)
            return name

        return rename

    def marks(self, names: Collection[str]) -> bool:
        """Whether the tensors include the one that only this family's weights have."""
        return bool(self.mark) and self.renaming(names)(self.mark) in names

    def tied(self, config: OwlConfig) -> dict[str, str]:
        """{tensor: the tensor that it may duplicate}."""
        prefix = self.language_prefix
        return {prefix + copy: prefix + tensor for copy, tensor in config.llm.tied_tensors.items()}
