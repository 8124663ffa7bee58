"""What the JSON files of model directories may say: types, ranges and defaults, in one place.

A Struct lists the keys that are read; `read_as` and `convert` check them before anything is
computed. Defaults are those of the classes that write the files, since transformers 4 omits what is
equal to them: configuration_{clip,llama,bloom}.py of transformers 4 and 5, and
configuration_mplug_owl.py of X-PLUG/mPLUG-Owl. A null is a value, not a missing key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

from owl_jax.errors import UserError, listed, shown
from owl_jax.files import read_json
from owl_jax.models.bounds import (
    Alpha,
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

# What tells a model directory, and an adapter of PEFT's.
CONFIG_FILE, ADAPTER_FILE = "config.json", "adapter_config.json"

_T = TypeVar("_T")

Ids = Annotated[list[TokenId], Meta(min_length=1, max_length=100)]
Padding = Annotated[int, Meta(ge=-1, lt=1 << 24)]  # -1: none


class ClipVision(Struct, frozen=True):
    """CLIPVisionConfig."""

    image_size: Pixels = 224
    patch_size: Pixels = 32
    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Heads = 12
    layer_norm_eps: Epsilon = 1e-5
    hidden_act: str = "quick_gelu"
    num_channels: int = 3


class OwlVision(Struct, frozen=True):
    """MplugOwlVisionConfig."""

    image_size: Pixels = 224
    patch_size: Pixels = 14
    hidden_size: Size = 1024
    intermediate_size: Size = 4096
    num_hidden_layers: Layers = 24
    num_attention_heads: Heads = 16
    layer_norm_eps: Epsilon = 1e-6
    hidden_act: str = "quick_gelu"
    num_channels: int = 3


class OwlAbstractor(Struct, frozen=True):
    """MplugOwlVisualAbstractorConfig."""

    hidden_size: Size = 1024
    intermediate_size: Size = 4096
    num_hidden_layers: Layers = 6
    num_attention_heads: Heads = 16
    layer_norm_eps: Epsilon = 1e-6
    encoder_hidden_size: Size = 1024


class Owl(Struct, frozen=True):
    """MplugOwlConfig without its sections."""

    num_query_tokens: QueryTokens = 64
    use_decoder_only_language_model: bool = True
    as_trained: bool = False


class Rope(Struct, frozen=True):
    """rope_parameters (transformers 5) and rope_scaling (4)."""

    rope_type: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    rope_theta: Theta | UnsetType = UNSET
    partial_rotary_factor: float = 1.0


class Llama(Struct, frozen=True):
    """LlamaConfig."""

    vocab_size: Vocabulary = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Layers = 32
    num_attention_heads: Heads = 32
    num_key_value_heads: Heads | None = None  # as many as heads
    max_position_embeddings: Length = 2048
    rms_norm_eps: Epsilon = 1e-6
    rope_theta: Theta | UnsetType = UNSET
    rope_parameters: Rope | None = None
    rope_scaling: Rope | None = None
    head_dim: Size | None = None
    hidden_act: str = "silu"
    partial_rotary_factor: float = 1.0
    tie_word_embeddings: bool = False
    bos_token_id: TokenId | Ids | None = None
    eos_token_id: TokenId | Ids | None = None
    pad_token_id: Padding | None = None


class Bloom(Struct, frozen=True):
    """BloomConfig."""

    vocab_size: Vocabulary = 250880
    hidden_size: Size = 64
    n_layer: Layers = 2
    n_head: Heads = 8
    layer_norm_epsilon: Epsilon = 1e-5
    tie_word_embeddings: bool = True
    bos_token_id: TokenId | Ids | None = None
    eos_token_id: TokenId | Ids | None = None
    pad_token_id: Padding | None = None


# Other names of BLOOM's sizes: BloomConfig's attribute_map, and the files of its first release.
BLOOM_NAMES = {
    "n_embed": "hidden_size",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
}

# Keys that change what a model computes to something that is not computed here. Their plain value
# is null, false, 0 or empty.
_OTHER_COMPUTATION = (
    "alibi",
    "attention_bias",
    "mlp_bias",
    "quantization_config",
    "qk_layernorm",
    "use_qk_norm",
    "sliding_window",
    "use_sliding_window",
    "apply_residual_connection_post_layernorm",
    "num_local_experts",
    "parallel_attn",
    "use_parallel_residual",
    "add_cross_attention",
    "is_encoder_decoder",
    "pruned_heads",
)


class Adapter(Struct, frozen=True):
    """LoraConfig of PEFT: what is read of it, and keys of which only the type is checked.

    Other keys are in checkpoint/peft_config.py.
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
    """_METADATA of params/, as Orbax writes it: the names of its arrays."""

    tree_metadata: Annotated[dict[str, _Leaf], Meta(max_length=100_000)]


def convert(path: Path, values: Any, kind: type[_T], where: str = "") -> _T:
    """`values` of the file `path` as a `kind`. Raises UserError that names file, key and value."""
    try:
        return checked(values, kind, where)
    except TypeError as error:
        raise UserError(f"{path}: {error}") from None


def read_as(path: Path, kind: type[_T]) -> _T:
    """The JSON object in `path` as a `kind`. Raises UserError."""
    return convert(path, read_json(path), kind)


def section(path: Path, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object under a key; empty if there is none. Raises UserError for something else."""
    found = values.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{path}: {name} is {shown(found)}; expected a JSON object")
    return found


def renamed(path: Path, values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`values` with other names of keys replaced. Raises UserError where two names disagree."""
    result = dict(values)
    for other, name in names.items():
        value = result.pop(other, None)
        if value is None:
            continue
        if result.get(name) is None:
            result[name] = value
        elif result[name] != value:
            raise UserError(
                f"{path}: {name} is {shown(result[name])} and {other} is {shown(value)}; they are "
                "two names of one size"
            )
    return result


def refuse_other_computation(path: Path, values: Mapping[str, Any], where: str = "") -> None:
    """Raises UserError that lists the keys under which a file asks for what is not computed."""
    asked = [name for name in _OTHER_COMPUTATION if values.get(name)]
    # False where a model is what it says; {"use_sliding_window": false} switches the other off.
    if values.get("use_sliding_window") is False:
        asked = [name for name in asked if name != "sliding_window"]
    if asked:
        found = listed(f"{where}{name} = {shown(values[name])}" for name in asked)
        raise UserError(
            f"{path}: {found}: not computed here; expected a model without (false or null)"
        )


def expect(path: Path, where: str, found: Any, expected: Any, why: str) -> None:
    """Raises UserError unless a value is the only one that is computed here."""
    if found != expected:
        raise UserError(f"{path}: {where} {shown(found)}; {why} has {expected}")
