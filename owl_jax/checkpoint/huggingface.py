"""The released Hugging Face directories: config.json and *.safetensors, read and written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from safetensors.numpy import save_file

from owl_jax.checkpoint import table
from owl_jax.checkpoint.tensors import TensorFiles, from_source, to_source
from owl_jax.errors import UserError
from owl_jax.models.config import (
    AbstractorConfig,
    BloomConfig,
    Compute,
    LanguageConfig,
    LlamaConfig,
    OwlConfig,
    VisionConfig,
)
from owl_jax.models.owl import init_params


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises UserError if there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path.parent}: no {path.name} ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a model's weights: those of the index, or model.safetensors.

    Raises UserError if there are none, or the index names a file that is not there.
    """
    index = directory / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{index}: no weight_map; expected the index of a model's shards")
        names = sorted(set(weight_map.values()))
        missing = [name for name in names if not (directory / name).exists()]
        if missing:
            raise UserError(f"{index} names {', '.join(missing)}, which is not there")
        return [directory / name for name in names]
    single = directory / "model.safetensors"
    if not single.exists():
        raise UserError(f"{directory}: no model.safetensors and no index of shards; is it a model?")
    return [single]


def read_config(directory: Path) -> OwlConfig:
    """Reads config.json of a released variant; `temporal` is seen in the tensor names.

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
    temporal = "temporal_query_tokens" in TensorFiles(weight_files(directory)).names()
    vision, abstractor = values["vision_config"], values["visual_abstractor_config"]
    try:
        return OwlConfig(
            vision=VisionConfig(
                image_size=vision["image_size"],
                patch_size=vision["patch_size"],
                hidden_size=vision["hidden_size"],
                intermediate_size=vision["intermediate_size"],
                num_layers=vision["num_hidden_layers"],
                num_heads=vision["num_attention_heads"],
                layer_norm_eps=vision["layer_norm_eps"],
                temporal=temporal,
            ),
            abstractor=AbstractorConfig(
                num_query_tokens=values["num_query_tokens"],
                hidden_size=abstractor["hidden_size"],
                mlp_size=abstractor_mlp_size(abstractor["intermediate_size"], temporal),
                num_layers=abstractor["num_hidden_layers"],
                num_heads=abstractor["num_attention_heads"],
                layer_norm_eps=abstractor["layer_norm_eps"],
                temporal=temporal,
            ),
            llm=_language_config(values["text_config"]),
        )
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


def _language_config(text: Mapping[str, Any]) -> LanguageConfig:
    ids = {
        name: text[name]
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        if text.get(name) is not None
    }
    if text["model_type"] == "bloom":
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
        return LlamaConfig(
            vocab_size=text["vocab_size"],
            hidden_size=text["hidden_size"],
            intermediate_size=text["intermediate_size"],
            num_layers=text["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=text.get("num_key_value_heads") or heads,
            rms_norm_eps=text["rms_norm_eps"],
            rope_theta=text.get("rope_theta") or 10000.0,
            max_positions=text["max_position_embeddings"],
            **ids,
        )
    raise UserError(f"language model {text['model_type']!r}: expected llama or bloom")


def write_config(config: OwlConfig, directory: Path, dtype: str) -> None:
    """Writes config.json with the original's keys."""
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
        "model_type": "mplug-owl",
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
    (directory / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def abstract_params(config: OwlConfig) -> dict[str, Any]:
    """Shapes of the whole tree without memory."""
    return nn.meta.unbox(
        jax.eval_shape(lambda k: init_params(config, Compute(), k), jax.random.key(0))
    )


def read_params(config: OwlConfig, directory: Path, dtype: Any) -> dict[str, Any]:
    """Reads {"vision", "abstractor", "llm"} as NumPy arrays of `dtype`.

    Raises UserError that lists every tensor that does not fit (checkpoint/tensors.py).
    """
    files = TensorFiles(weight_files(directory))
    rows, tied = table.rows(config), table.tied(config)
    return from_source(rows, files, abstract_params(config), dtype, directory, tied)


def write_params(config: OwlConfig, params: Mapping[str, Any], directory: Path) -> None:
    """Writes model.safetensors with the original's names. An adapter must be merged before."""
    tensors = to_source(table.rows(config), params)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
