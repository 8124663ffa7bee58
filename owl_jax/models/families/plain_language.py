"""Plain language models, without media, in directories as transformers writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from owl_jax.models.config import OwlConfig
from owl_jax.models.families.family import Family
from owl_jax.models.hf_config import Source
from owl_jax.models.language import read_language
from owl_jax.models.weight_names import Row


def _fits(config: OwlConfig) -> bool:
    return config.text_only


def _read_config(source: Source, tensors: Collection[str]) -> OwlConfig:
    return OwlConfig(None, None, read_language(source))


def _write_config(config: OwlConfig, dtype: str) -> dict[str, Any]:
    llm = config.llm
    ids = {name: getattr(llm, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    values = {"architectures": [llm.HF_CLASS], **llm.to_hf(), "torch_dtype": dtype}
    return {**values, **ids}


def _weight_rows(config: OwlConfig) -> list[Row]:
    return config.llm.weight_rows()


def _tied(config: OwlConfig) -> Mapping[str, str]:
    return config.llm.tied_tensors


# Each language model has a model_type of its own.
PLAIN_LANGUAGE = Family(
    "", _read_config, _write_config, _weight_rows, _tied, _fits, conversation=""
)
