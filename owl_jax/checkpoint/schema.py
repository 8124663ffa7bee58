"""Schemas of the JSON files in model directories; those of parts are in models/hf_config.py.

A Struct lists the keys that are read; `read_as` and `convert` check types and ranges.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct

from owl_jax.errors import UserError
from owl_jax.files import read_json
from owl_jax.media.resizing import Resizing
from owl_jax.models.bounds import Alpha, Dropout, Name, Rank, checked

# The files that identify a model directory and a PEFT adapter.
CONFIG_FILE, ADAPTER_FILE = "config.json", "adapter_config.json"
# The weights of each, safetensors before PyTorch; a model may have an index of shards instead.
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# In our own format: the weights, and config.json of the model that was converted.
PARAMS, SOURCE_CONFIG_FILE = "params", "source_config.json"
# The base of an adapter (checkpoint/adapter_base.py).
BASE_FILE = "owl_jax_base.json"
# What a model has for its tokenizer, its conversations and its pictures.
COMPANIONS = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)

_T = TypeVar("_T")


class Trained(Struct, frozen=True):
    """The keys that owl_jax adds to config.json of a family's model."""

    as_trained: bool = False
    owl_jax_conversation: str | dict[str, Any] | None = None
    owl_jax_resizing: Resizing | None = None


class Adapter(Struct, frozen=True):
    """LoraConfig of PEFT: keys that are read, and keys whose type is checked.

    checkpoint/peft_config.py handles the others.
    """

    r: Rank
    lora_alpha: Alpha
    target_modules: (
        Annotated[str, Meta(max_length=2000)] | Annotated[list[Name], Meta(max_length=1000)] | None
    )
    lora_dropout: Dropout = 0.0
    auto_mapping: dict[str, Any] | None = None
    base_model_name_or_path: str | None = None
    corda_config: dict[str, Any] | None = None
    eva_config: dict[str, Any] | None = None
    inference_mode: bool | None = None
    loftq_config: dict[str, Any] | None = None
    lora_ga_config: dict[str, Any] | None = None
    megatron_core: str | None = None
    merge_weights: bool | None = None
    peft_version: str | None = None
    qalora_group_size: int | None = None
    revision: str | None = None
    runtime_config: dict[str, Any] | None = None
    task_type: str | None = None


class BaseRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """owl_jax_base.json."""

    name: Annotated[str, Meta(max_length=10_000)]
    fingerprint: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    conversation: str | dict[str, Any] | None = None
    resizing: dict[str, Any] | None = None


class ShardIndex(Struct, frozen=True):
    """model.safetensors.index.json and pytorch_model.bin.index.json."""

    weight_map: dict[str, Annotated[str, Meta(min_length=1, max_length=255)]]


class OwnConfig(Struct, frozen=True):
    """config.json of our own directories."""

    version: Annotated[int, Meta(ge=0, le=1000)]
    model: dict[str, Any]
    as_trained: bool = True


class _Key(Struct, frozen=True):
    key: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_]+$")]


class _Leaf(Struct, frozen=True):
    key_metadata: Annotated[list[_Key], Meta(min_length=1, max_length=20)]


class OrbaxTree(Struct, frozen=True):
    """_METADATA of params/, written by Orbax: the names of its arrays."""

    tree_metadata: Annotated[dict[str, _Leaf], Meta(max_length=100_000)]


def convert(path: Path, values: Any, kind: type[_T], where: str = "") -> _T:
    """Converts values of the file `path`. Raises UserError that names file, key and value."""
    try:
        return checked(values, kind, where)
    except TypeError as error:
        raise UserError(f"{path}: {error}") from None


def read_as(path: Path, kind: type[_T]) -> _T:
    """Reads the JSON object in `path` as a `kind`. Raises UserError."""
    return convert(path, read_json(path), kind)
