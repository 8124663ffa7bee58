"""The table between the original's tensor names and our parameter tree, used in both directions.

`{i}` is the layer; our side stacks layers on axis 0. A row is (source name, our path, layout).
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from owl_jax.models.config import BloomConfig, LanguageConfig, OwlConfig
from owl_jax.models.transforms import (
    DepthwiseConvolution,
    Flat,
    Layout,
    Linear,
    PatchConvolution,
    Same,
)


@dataclass(frozen=True)
class Row:
    """One kind of tensor. `source` holds `{i}` if there is one for each layer.

    Several rows of one target, in order, are what lies together on its axis before the last.
    """

    source: str
    target: str
    layout: Layout

    @property
    def per_layer(self) -> bool:
        return "{i}" in self.source


# Buffers that old transformers wrote into checkpoints; they hold nothing learned.
BUFFERS = re.compile(r".*(rotary_emb\.inv_freq|position_ids)")


def _weight_and_bias(source: str, target: str, num_in_axes: int = 1) -> list[Row]:
    return [
        Row(f"{source}.weight", f"{target}/kernel", Linear(num_in_axes)),
        Row(f"{source}.bias", f"{target}/bias", Flat()),
    ]


def _norm(source: str, target: str) -> list[Row]:
    return [
        Row(f"{source}.weight", f"{target}/scale", Same()),
        Row(f"{source}.bias", f"{target}/bias", Same()),
    ]


def _vision(temporal: bool) -> list[Row]:
    embeddings, layer = "vision_model.embeddings", "vision_model.encoder.layers.{i}"
    ours = "vision/layers"
    rows = [
        Row(f"{embeddings}.patch_embed.weight", "vision/patch_embed/kernel", PatchConvolution()),
        Row(f"{embeddings}.cls_token", "vision/class_token", Same(1)),
        Row(f"{embeddings}.position_embedding", "vision/positions", Same(1)),
        *_norm(f"{embeddings}.pre_layernorm", "vision/pre_norm"),
        *_norm(f"{layer}.input_layernorm", f"{ours}/attention_norm"),
        *_weight_and_bias(f"{layer}.self_attn.query_key_value", f"{ours}/qkv"),
        *_weight_and_bias(f"{layer}.self_attn.dense", f"{ours}/out", num_in_axes=2),
        *_norm(f"{layer}.post_attention_layernorm", f"{ours}/mlp_norm"),
        *_weight_and_bias(f"{layer}.mlp.fc1", f"{ours}/up"),
        *_weight_and_bias(f"{layer}.mlp.fc2", f"{ours}/down"),
        *_norm("vision_model.post_layernorm", "vision/post_norm"),
    ]
    if temporal:
        source, target = f"{layer}.temporal", f"{ours}/temporal"
        rows += [
            *_norm(f"{source}.ln", f"{target}/norm"),
            Row(f"{source}.down_proj.weight", f"{target}/down/kernel", Linear(trailing=3)),
            Row(f"{source}.down_proj.bias", f"{target}/down/bias", Flat()),
            Row(f"{source}.conv.weight", f"{target}/kernel", DepthwiseConvolution()),
            Row(f"{source}.conv.bias", f"{target}/bias", Same()),
            Row(f"{source}.up_proj.weight", f"{target}/up/kernel", Linear(trailing=3)),
            Row(f"{source}.up_proj.bias", f"{target}/up/bias", Flat()),
        ]
    return rows


def _abstractor(temporal: bool) -> list[Row]:
    attention = "abstractor.encoder.layers.{i}.crossattention"
    mlp, ours = f"{attention}.output.mlp", "abstractor/layers"
    rows = [
        Row("query_tokens", "abstractor/queries", Same(1)),
        *_norm(f"{attention}.norm1", f"{ours}/query_norm"),
        *_norm(f"{attention}.normk", f"{ours}/image_norm"),
        *_weight_and_bias(f"{attention}.attention.query", f"{ours}/query"),
        *_weight_and_bias(f"{attention}.attention.key", f"{ours}/key"),
        *_weight_and_bias(f"{attention}.attention.value", f"{ours}/value"),
        *_weight_and_bias(f"{attention}.output.out_proj", f"{ours}/out", num_in_axes=2),
        *_norm(f"{attention}.output.norm2", f"{ours}/mlp_norm"),
        *_weight_and_bias(f"{mlp}.w1", f"{ours}/gate"),
        *_weight_and_bias(f"{mlp}.w3", f"{ours}/up"),
        *_norm(f"{mlp}.ffn_ln", f"{ours}/inner_norm"),
        *_weight_and_bias(f"{mlp}.w2", f"{ours}/down"),
        *_weight_and_bias("abstractor.visual_fc", "abstractor/project"),
        Row("abstractor.vit_eos", "abstractor/end", Same(2)),
    ]
    if temporal:
        rows += [
            Row("temporal_query_tokens", "abstractor/temporal_queries", Same(1)),
            *_weight_and_bias("abstractor.temporal_visual_fc", "abstractor/project_temporal"),
        ]
    return rows


def _llama() -> list[Row]:
    model, layer, ours = "language_model.model", "language_model.model.layers.{i}", "llm/layers"
    projections = [
        *[(f"self_attn.{name}_proj", f"{name}_proj", 1) for name in "qkv"],
        ("self_attn.o_proj", "o_proj", 2),
        *[(f"mlp.{name}_proj", f"{name}_proj", 1) for name in ("gate", "up", "down")],
    ]
    return [
        Row(f"{model}.embed_tokens.weight", "llm/embed_tokens/embedding", Same()),
        Row(f"{layer}.input_layernorm.weight", f"{ours}/attention_norm/scale", Same()),
        Row(f"{layer}.post_attention_layernorm.weight", f"{ours}/mlp_norm/scale", Same()),
        *[
            Row(f"{layer}.{source}.weight", f"{ours}/{target}/kernel", Linear(num_in_axes))
            for source, target, num_in_axes in projections
        ],
        Row(f"{model}.norm.weight", "llm/norm/scale", Same()),
        Row("language_model.lm_head.weight", "llm/lm_head/kernel", Linear()),
    ]


def _bloom() -> list[Row]:
    model, layer, ours = (
        "language_model.transformer",
        "language_model.transformer.h.{i}",
        "llm/layers",
    )
    return [
        Row(f"{model}.word_embeddings.weight", "llm/word_embeddings/embedding", Same()),
        *_norm(f"{model}.word_embeddings_layernorm", "llm/embedding_norm"),
        *_norm(f"{layer}.input_layernorm", f"{ours}/attention_norm"),
        *_weight_and_bias(f"{layer}.self_attention.query_key_value", f"{ours}/query_key_value"),
        *_weight_and_bias(f"{layer}.self_attention.dense", f"{ours}/dense", num_in_axes=2),
        *_norm(f"{layer}.post_attention_layernorm", f"{ours}/mlp_norm"),
        *_weight_and_bias(f"{layer}.mlp.dense_h_to_4h", f"{ours}/dense_h_to_4h"),
        *_weight_and_bias(f"{layer}.mlp.dense_4h_to_h", f"{ours}/dense_4h_to_h"),
        *_norm(f"{model}.ln_f", "llm/norm"),
    ]


def rows(config: OwlConfig) -> list[Row]:
    """The table of one variant; it covers every leaf of `vision`, `abstractor` and `llm`."""
    return _vision(config.temporal) + _abstractor(config.temporal) + language_rows(config.llm)


def clip_rows() -> list[Row]:
    """The table of CLIP's vision tower (transformers, CLIPVisionModel): `vision`, not temporal."""
    embeddings, layer = "vision_model.embeddings", "vision_model.encoder.layers.{i}"
    ours = "vision/layers"
    fused = [
        row
        for name in "qkv"
        for row in _weight_and_bias(f"{layer}.self_attn.{name}_proj", f"{ours}/qkv")
    ]
    return [
        Row(
            f"{embeddings}.patch_embedding.weight", "vision/patch_embed/kernel", PatchConvolution()
        ),
        Row(f"{embeddings}.class_embedding", "vision/class_token", Flat()),
        Row(f"{embeddings}.position_embedding.weight", "vision/positions", Same()),
        # So misspelt there.
        *_norm("vision_model.pre_layrnorm", "vision/pre_norm"),
        *_norm(f"{layer}.layer_norm1", f"{ours}/attention_norm"),
        *fused,
        *_weight_and_bias(f"{layer}.self_attn.out_proj", f"{ours}/out", num_in_axes=2),
        *_norm(f"{layer}.layer_norm2", f"{ours}/mlp_norm"),
        *_weight_and_bias(f"{layer}.mlp.fc1", f"{ours}/up"),
        *_weight_and_bias(f"{layer}.mlp.fc2", f"{ours}/down"),
        *_norm("vision_model.post_layernorm", "vision/post_norm"),
    ]


def language_rows(config: LanguageConfig, prefix: str = "language_model.") -> list[Row]:
    """The table of a language model; `prefix` is what its tensors' names begin with."""
    table = _bloom() if isinstance(config, BloomConfig) else _llama()
    return [
        dataclasses.replace(row, source=prefix + row.source.removeprefix("language_model."))
        for row in table
    ]


def projections(config: OwlConfig) -> dict[str, Row]:
    """The kernels in the language model's layers, by the name of their projection."""
    return {
        row.target.split("/")[-2]: row
        for row in language_rows(config.llm)
        if row.per_layer and row.target.endswith("/kernel")
    }


def tied(config: OwlConfig) -> dict[str, str]:
    """Source names that may repeat another tensor: {repeated: original}."""
    if isinstance(config.llm, BloomConfig):
        return {
            "language_model.lm_head.weight": "language_model.transformer.word_embeddings.weight"
        }
    return {}
