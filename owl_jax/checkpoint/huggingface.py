"""config.json as Hugging Face has it: of mPLUG-Owl, read and written; of CLIP, LLaMA and BLOOM,
read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError
from owl_jax.files import read_json
from owl_jax.models.config import (
    AbstractorConfig,
    BloomConfig,
    LanguageConfig,
    LlamaConfig,
    OwlConfig,
    VisionConfig,
)

MODEL_TYPE = "mplug-owl"


def read_config(directory: Path, temporal: bool) -> OwlConfig:
    """Reads config.json of a released variant.

    temporal: whether it is the video release, which its config.json does not say.
    Raises UserError for a missing or unsuitable file.
    """
    path = directory / "config.json"
    values = read_json(path)
    sections = ("vision_config", "visual_abstractor_config", "text_config")
    missing = [name for name in sections if not isinstance(values.get(name), dict)]
    if missing:
        raise UserError(
            f"{path}: no {', '.join(missing)}; expected the config of an mPLUG-Owl model"
        )
    if (kind := values.get("model_type", MODEL_TYPE)) != MODEL_TYPE:
        raise UserError(f"{path}: model_type {kind!r}; expected {MODEL_TYPE!r}")
    vision, abstractor = values["vision_config"], values["visual_abstractor_config"]
    try:
        config = OwlConfig(
            vision=_vision_config(vision, vision["layer_norm_eps"], temporal),
            abstractor=AbstractorConfig(
                num_query_tokens=values["num_query_tokens"],
                hidden_size=abstractor["hidden_size"],
                mlp_size=abstractor_mlp_size(abstractor["intermediate_size"], temporal),
                num_layers=abstractor["num_hidden_layers"],
                num_heads=abstractor["num_attention_heads"],
                layer_norm_eps=abstractor["layer_norm_eps"],
                temporal=temporal,
            ),
            llm=_language_config(values["text_config"], path),
        )
    except KeyError as error:
        raise UserError(f"{path}: no value for {error}") from None
    if problems := config.problems():
        raise UserError(f"{path}: {'; '.join(problems)}")
    return config


def read_vision_config(directory: Path) -> VisionConfig:
    """Reads config.json of a CLIP model or of its vision tower. Raises UserError."""
    path = directory / "config.json"
    values = read_json(path)
    vision = values.get("vision_config", values)
    activation = vision.get("hidden_act", "quick_gelu")
    if activation != "quick_gelu":
        raise UserError(f"{path}: hidden_act {activation!r}; the vision encoder has quick_gelu")
    try:
        return _vision_config(vision, vision.get("layer_norm_eps", 1e-5), temporal=False)
    except KeyError as error:
        raise UserError(f"{path}: no value for {error}") from None


def read_language_config(directory: Path) -> LanguageConfig:
    """Reads config.json of a plain LLaMA or BLOOM. Raises UserError."""
    path = directory / "config.json"
    try:
        return _language_config(read_json(path), path)
    except KeyError as error:
        raise UserError(f"{path}: no value for {error}") from None


def abstractor_mlp_size(intermediate_size: int, temporal: bool) -> int:
    """Width of the abstractor's MLP; the video release rounds it unless it is 2816."""
    if not temporal or intermediate_size == 2816:
        return intermediate_size
    return 256 * math.ceil(int(2 * intermediate_size / 3) / 256)


def _abstractor_intermediate_size(abstractor: AbstractorConfig) -> int:
    """The inverse of `abstractor_mlp_size`."""
    size = abstractor.mlp_size
    if abstractor.temporal and size != 2816:
        size = size * 3 // 2
    if abstractor_mlp_size(size, abstractor.temporal) != abstractor.mlp_size:
        raise UserError(
            f"abstractor.mlp_size {abstractor.mlp_size}: the video release's format has only "
            "multiples of 256"
        )
    return size


def _vision_config(vision: Mapping[str, Any], eps: float, temporal: bool) -> VisionConfig:
    return VisionConfig(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        hidden_size=vision["hidden_size"],
        intermediate_size=vision["intermediate_size"],
        num_layers=vision["num_hidden_layers"],
        num_heads=vision["num_attention_heads"],
        layer_norm_eps=eps,
        temporal=temporal,
    )


def _language_config(text: Mapping[str, Any], path: Path) -> LanguageConfig:
    ids = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = text.get(name)
        if isinstance(value, list):  # any of them ends a text; the first is the usual one
            value = value[0]
        if value is not None:
            ids[name] = value
    if text["model_type"] == "bloom":
        if text.get("apply_residual_connection_post_layernorm"):
            raise UserError(f"{path}: residuals after the norms, which BLOOM here does not have")
        return BloomConfig(
            vocab_size=text["vocab_size"],
            hidden_size=text.get("hidden_size") or text["n_embed"],
            num_layers=text["n_layer"],
            num_heads=text.get("n_head") or text["num_attention_heads"],
            layer_norm_eps=text["layer_norm_epsilon"],
            **ids,
        )
    if text["model_type"] == "llama":
        heads = text["num_attention_heads"]
        if (activation := text.get("hidden_act", "silu")) != "silu":
            raise UserError(f"{path}: hidden_act {activation!r}; the LLaMA here has silu")
        rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
        if (kind := rope.get("rope_type", rope.get("type", "default"))) != "default":
            raise UserError(f"{path}: rope of type {kind!r}; expected plain rotary positions")
        return LlamaConfig(
            vocab_size=text["vocab_size"],
            hidden_size=text["hidden_size"],
            intermediate_size=text["intermediate_size"],
            num_layers=text["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=text.get("num_key_value_heads") or heads,
            rms_norm_eps=text["rms_norm_eps"],
            rope_theta=text.get("rope_theta") or rope.get("rope_theta") or 10000.0,
            max_positions=text["max_position_embeddings"],
            **ids,
        )
    raise UserError(f"{path}: language model {text['model_type']!r}; expected llama or bloom")


def write_config(
    config: OwlConfig, directory: Path, dtype: str, source: Mapping[str, Any] | None = None
) -> None:
    """Writes config.json with the original's keys; keys of `source` that say more are kept."""
    vision, abstractor, llm = config.vision, config.abstractor, config.llm
    ids = {name: getattr(llm, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if isinstance(llm, BloomConfig):
        text = {
            "model_type": "bloom",
            "vocab_size": llm.vocab_size,
            "hidden_size": llm.hidden_size,
            "n_layer": llm.num_layers,
            "n_head": llm.num_heads,
            "layer_norm_epsilon": llm.layer_norm_eps,
            "tie_word_embeddings": True,
        }
    else:
        text = {
            "model_type": "llama",
            "vocab_size": llm.vocab_size,
            "hidden_size": llm.hidden_size,
            "intermediate_size": llm.intermediate_size,
            "num_hidden_layers": llm.num_layers,
            "num_attention_heads": llm.num_heads,
            "num_key_value_heads": llm.num_kv_heads,
            "rms_norm_eps": llm.rms_norm_eps,
            "rope_theta": llm.rope_theta,
            "max_position_embeddings": llm.max_positions,
            "tie_word_embeddings": False,
        }
    values = {
        "architectures": ["MplugOwlForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "num_query_tokens": config.num_query_tokens,
        "torch_dtype": dtype,
        "text_config": {**text, **ids},
        "vision_config": {
            "model_type": "mplug_owl_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_layers,
            "num_attention_heads": vision.num_heads,
            "layer_norm_eps": vision.layer_norm_eps,
            "hidden_act": "quick_gelu",
        },
        "visual_abstractor_config": {
            "model_type": "mplug_owl_visual_abstract",
            "hidden_size": abstractor.hidden_size,
            "encoder_hidden_size": vision.hidden_size,
            "intermediate_size": _abstractor_intermediate_size(abstractor),
            "num_hidden_layers": abstractor.num_layers,
            "num_attention_heads": abstractor.num_heads,
            "layer_norm_eps": abstractor.layer_norm_eps,
        },
    }
    written = json.dumps(_updated(source or {}, values), indent=2) + "\n"
    (directory / "config.json").write_text(written, encoding="utf-8")


def _updated(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with the values of `new`, at every depth."""
    result = dict(old)
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            value = _updated(before, value)
        result[key] = value
    return result
