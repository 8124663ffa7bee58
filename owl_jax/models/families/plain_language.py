"""Plain language models, without media, in directories as transformers writes them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from owl_jax.models.config import OwlConfig
from owl_jax.models.families.family import Family
from owl_jax.models.hf_config import Source, special_ids_of
from owl_jax.models.language import read_language
from owl_jax.models.weight_names import Row


def _fits(config: OwlConfig) -> bool:
    return config.text_only and bool(config.llm.HF_CLASS)


def _read_config(source: Source, tensors: Collection[str]) -> OwlConfig:
    return OwlConfig(None, None, read_language(source))


def _write_config(config: OwlConfig, dtype: str) -> dict[str, Any]:
    llm = config.llm
    values = {"architectures": [llm.HF_CLASS], **llm.to_hf(), "torch_dtype": dtype}
    return {**values, **special_ids_of(llm)}


def _weight_rows(config: OwlConfig) -> list[Row]:
    return config.llm.weight_rows()


# Each language model has a model_type of its own.
PLAIN_LANGUAGE = Family("", _read_config, _write_config, _weight_rows, _fits, conversation="")
