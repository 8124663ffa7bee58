"""mPLUG-Owl (arXiv 2304.14178): its released variants, config.json and tensor names.

Source: X-PLUG/mPLUG-Owl, configuration_mplug_owl.py and modeling_mplug_owl.py, and the video
release's copies of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from msgspec import Struct

from owl_jax.errors import UserError
from owl_jax.models.bounds import QueryTokens
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.families.family import Family
from owl_jax.models.hf_config import Source, special_ids_of
from owl_jax.models.language import read_language
from owl_jax.models.language.bloom import BloomConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.parts import VisionPart
from owl_jax.models.transforms import DepthwiseConvolution, Flat, Linear, PatchConvolution, Same
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.weight_names import Row, layer_norm, weight_and_bias, with_prefix

VARIANTS: dict[str, OwlConfig] = {
    # MAGAer13/mplug-owl-llama-7b, -pt and -ft
    "llama": OwlConfig(ClipConfig(), AbstractorConfig(), LlamaConfig()),
    # MAGAer13/mplug-owl-bloomz-7b-multilingual
    "bloomz": OwlConfig(ClipConfig(), AbstractorConfig(), BloomConfig()),
    # MAGAer13/mplug-owl-llama-7b-video
    "video": OwlConfig(ClipConfig(temporal=True), AbstractorConfig(temporal=True), LlamaConfig()),
}

# The projections that the original adapts (pipeline/train.py); BLOOM's are fused.
LORA: dict[str, LoraConfig] = {
    "llama": LoraConfig(),
    "bloomz": LoraConfig(targets=("query_key_value",)),
    "video": LoraConfig(),
}

# Former names of subtrees in model directories that owl_jax wrote.
SUBTREES_OF_VERSION_1 = {"abstractor": "connector"}

_MODEL_TYPE = "mplug-owl"
VISION_TYPE = "mplug_owl_vision_model"
_LANGUAGE = "language_model."
_SECTIONS = ("vision_config", "visual_abstractor_config", "text_config")


def variant(name: str) -> OwlConfig:
    """A released variant without an adapter. Raises UserError for an unknown name."""
    if name not in VARIANTS:
        raise UserError(f"unknown variant {name!r}: choose one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def around(part: VisionPart) -> OwlConfig:
    """The released model with the vision encoder `part`, to describe a standalone encoder."""
    released = VARIANTS["llama"]
    # The abstractor's width is its vision encoder's.
    size, heads = part.hidden_size, part.num_heads
    connector = AbstractorConfig(hidden_size=size, num_heads=heads)
    return dataclasses.replace(released, vision=part, connector=connector)


class _HfOwl(Struct, frozen=True):
    """MplugOwlConfig without its sections."""

    num_query_tokens: QueryTokens = 64
    use_decoder_only_language_model: bool = True


def _read_config(source: Source, tensors: Collection[str]) -> OwlConfig:
    missing = [name for name in _SECTIONS if not isinstance(source.values.get(name), dict)]
    if missing:
        raise UserError(
            f"{source.path}: no {', '.join(missing)}; expected the config of an mPLUG-Owl model"
        )
    source.expect(
        "model_type", source.values.get("model_type", _MODEL_TYPE), _MODEL_TYPE, "mPLUG-Owl"
    )
    whole = source.read(_HfOwl)
    source.expect(
        "use_decoder_only_language_model",
        whole.use_decoder_only_language_model,
        True,
        "owl_jax's mPLUG-Owl",
    )
    sections = {name: source.section(name) for name in _SECTIONS}
    for name, part in (("", source), *sections.items()):
        if name != "text_config":  # read_language decides what a language model supports
            part.refuse_other_computation()
    # The video release's config.json is like the other releases'; only its tensors differ.
    temporal = "temporal_query_tokens" in tensors
    vision = ClipConfig.from_owl(sections["vision_config"], temporal)
    return OwlConfig(
        vision,
        AbstractorConfig.from_hf(
            sections["visual_abstractor_config"],
            whole.num_query_tokens,
            vision.hidden_size,
            temporal,
        ),
        read_language(sections["text_config"]),
    )


def _write_config(config: OwlConfig, dtype: str) -> dict[str, Any]:
    vision, connector, llm = config.vision, config.connector, config.llm
    assert isinstance(vision, ClipConfig)
    assert isinstance(connector, AbstractorConfig)
    return {
        "architectures": ["MplugOwlForConditionalGeneration"],
        "model_type": _MODEL_TYPE,
        "num_query_tokens": connector.num_query_tokens,
        "torch_dtype": dtype,
        "text_config": {**llm.to_hf(), **special_ids_of(llm)},
        "vision_config": {**vision.to_hf(), "model_type": VISION_TYPE},
        "visual_abstractor_config": connector.to_hf(vision.hidden_size),
    }


def _weight_rows(config: OwlConfig) -> list[Row]:
    assert isinstance(config.vision, ClipConfig)
    assert isinstance(config.connector, AbstractorConfig)
    language = with_prefix(config.llm.weight_rows(), _LANGUAGE)
    return [*vision_rows(config.vision.temporal), *config.connector.weight_rows(), *language]


def vision_rows(temporal: bool) -> list[Row]:
    """mPLUG-Owl's tensor names of the vision encoder; q, k and v are fused."""
    embeddings, layer = "vision_model.embeddings", "vision_model.encoder.layers.{i}"
    ours = "vision/layers"
    rows = [
        Row(f"{embeddings}.patch_embed.weight", "vision/patch_embed/kernel", PatchConvolution()),
        Row(f"{embeddings}.cls_token", "vision/class_token", Same(1)),
        Row(f"{embeddings}.position_embedding", "vision/positions", Same(1)),
        *layer_norm(f"{embeddings}.pre_layernorm", "vision/pre_norm"),
        *layer_norm(f"{layer}.input_layernorm", f"{ours}/attention_norm"),
        *weight_and_bias(f"{layer}.self_attn.query_key_value", f"{ours}/qkv"),
        *weight_and_bias(f"{layer}.self_attn.dense", f"{ours}/out", num_in_axes=2),
        *layer_norm(f"{layer}.post_attention_layernorm", f"{ours}/mlp_norm"),
        *weight_and_bias(f"{layer}.mlp.fc1", f"{ours}/up"),
        *weight_and_bias(f"{layer}.mlp.fc2", f"{ours}/down"),
        *layer_norm("vision_model.post_layernorm", "vision/post_norm"),
    ]
    if temporal:
        source, target = f"{layer}.temporal", f"{ours}/temporal"
        rows += [
            *layer_norm(f"{source}.ln", f"{target}/norm"),
            Row(f"{source}.down_proj.weight", f"{target}/down/kernel", Linear(trailing=3)),
            Row(f"{source}.down_proj.bias", f"{target}/down/bias", Flat()),
            Row(f"{source}.conv.weight", f"{target}/kernel", DepthwiseConvolution(trailing=2)),
            Row(f"{source}.conv.bias", f"{target}/bias", Same()),
            Row(f"{source}.up_proj.weight", f"{target}/up/kernel", Linear(trailing=3)),
            Row(f"{source}.up_proj.bias", f"{target}/up/bias", Flat()),
        ]
    return rows


def _fits(config: OwlConfig) -> bool:
    return (
        isinstance(config.vision, ClipConfig)
        and config.vision.is_whole
        and isinstance(config.connector, AbstractorConfig)
        and bool(config.llm.HF_CLASS)
    )


MPLUG_OWL = Family(
    _MODEL_TYPE,
    _read_config,
    _write_config,
    _weight_rows,
    _fits,
    mark="query_tokens",
    language_prefix=_LANGUAGE,
    peft_base={
        "base_model_class": "MplugOwlForConditionalGeneration",
        "parent_library": "mplug_owl.modeling_mplug_owl",
    },
)
