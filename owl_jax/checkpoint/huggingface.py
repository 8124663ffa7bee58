"""config.json as Hugging Face has it: of mPLUG-Owl, read and written; of CLIP, LLaMA and BLOOM,
read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import UNSET, UnsetType

from owl_jax.checkpoint import schema
from owl_jax.errors import UserError, shown
from owl_jax.files import read_json
from owl_jax.models.config import (
    AbstractorConfig,
    BloomConfig,
    LanguageConfig,
    LlamaConfig,
    OwlConfig,
    VisionConfig,
    vision_problems,
)

MODEL_TYPE = "mplug-owl"


_SECTIONS = ("vision_config", "visual_abstractor_config", "text_config")


def read_config(directory: Path, temporal: bool) -> OwlConfig:
    """Reads config.json of a released variant.

    temporal: whether it is the video release, which its config.json does not say.
    Raises UserError for a missing or unsuitable file: a value of another type or out of its range,
    sizes that do not fit each other, or what is not computed here.
    """
    path = directory / schema.CONFIG_FILE
    values = read_json(path)
    missing = [name for name in _SECTIONS if not isinstance(values.get(name), dict)]
    if missing:
        raise UserError(
            f"{path}: no {', '.join(missing)}; expected the config of an mPLUG-Owl model"
        )
    schema.expect(path, "model_type", values.get("model_type", MODEL_TYPE), MODEL_TYPE, "mPLUG-Owl")
    whole = schema.convert(path, values, schema.Owl)
    schema.expect(
        path,
        "use_decoder_only_language_model",
        whole.use_decoder_only_language_model,
        True,
        "mPLUG-Owl here",
    )
    schema.refuse_other_computation(path, values)
    vision = schema.convert(path, values["vision_config"], schema.OwlVision, "vision_config")
    name = "visual_abstractor_config"
    # As wide as the vision encoder, if it does not say.
    beside = {"encoder_hidden_size": vision.hidden_size, **values[name]}
    abstractor = schema.convert(path, beside, schema.OwlAbstractor, name)
    schema.expect(
        path,
        f"{name}.encoder_hidden_size",
        abstractor.encoder_hidden_size,
        vision.hidden_size,
        "the vision encoder",
    )
    for name in _SECTIONS:
        schema.refuse_other_computation(path, values[name], f"{name}.")
    config = OwlConfig(
        vision=_vision_config(vision, path, temporal),
        abstractor=AbstractorConfig(
            num_query_tokens=whole.num_query_tokens,
            hidden_size=abstractor.hidden_size,
            mlp_size=abstractor_mlp_size(abstractor.intermediate_size, temporal),
            num_layers=abstractor.num_hidden_layers,
            num_heads=abstractor.num_attention_heads,
            layer_norm_eps=abstractor.layer_norm_eps,
            temporal=temporal,
        ),
        llm=_language_config(values["text_config"], path, "text_config"),
    )
    if values["text_config"].get("tie_word_embeddings") and isinstance(config.llm, LlamaConfig):
        raise UserError(
            f"{path}: text_config.tie_word_embeddings True; the LLaMA of mPLUG-Owl has a head of "
            "its own"
        )
    _refuse(path, config.problems())
    return config


def read_vision_config(directory: Path) -> VisionConfig:
    """Reads config.json of a CLIP model or of its vision tower. Raises UserError."""
    path = directory / schema.CONFIG_FILE
    values = read_json(path)
    where = ""
    if "vision_config" in values or values.get("model_type") == "clip":
        # Files of transformers 4.20 and before say some of it again, and that counts.
        where = "vision_config"
        values = {
            **schema.section(path, values, where),
            **schema.section(path, values, f"{where}_dict"),
        }
    schema.refuse_other_computation(path, values, where and f"{where}.")
    vision = _vision_config(schema.convert(path, values, schema.ClipVision, where), path, False)
    _refuse(path, vision_problems(vision))
    return vision


def read_language_config(directory: Path) -> LanguageConfig:
    """Reads config.json of a plain LLaMA or BLOOM. Raises UserError."""
    path = directory / schema.CONFIG_FILE
    values = read_json(path)
    schema.refuse_other_computation(path, values)
    llm = _language_config(values, path)
    _refuse(path, OwlConfig(llm=llm).problems())
    return llm


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")


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


def _vision_config(
    vision: schema.OwlVision | schema.ClipVision, path: Path, temporal: bool
) -> VisionConfig:
    schema.expect(path, "hidden_act", vision.hidden_act, "quick_gelu", "the vision encoder")
    schema.expect(path, "num_channels", vision.num_channels, 3, "the vision encoder")
    return VisionConfig(
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        num_layers=vision.num_hidden_layers,
        num_heads=vision.num_attention_heads,
        layer_norm_eps=vision.layer_norm_eps,
        temporal=temporal,
    )


def _language_config(text: Mapping[str, Any], path: Path, where: str = "") -> LanguageConfig:
    kind = text.get("model_type")
    if kind is None:
        raise UserError(f"{path}: no value for {f'{where}.model_type'.lstrip('.')!r}")
    if kind == "bloom":
        values = schema.renamed(path, text, schema.BLOOM_NAMES)
        bloom = schema.convert(path, values, schema.Bloom, where)
        schema.expect(path, "tie_word_embeddings", bloom.tie_word_embeddings, True, "BLOOM")
        return BloomConfig(
            vocab_size=bloom.vocab_size,
            hidden_size=bloom.hidden_size,
            num_layers=bloom.n_layer,
            num_heads=bloom.n_head,
            layer_norm_eps=bloom.layer_norm_epsilon,
            **_ids(bloom),
        )
    if kind == "llama":
        if "max_sequence_length" in text:  # as files of 2023 have it
            text = {"max_position_embeddings": text["max_sequence_length"], **text}
        llama = schema.convert(path, text, schema.Llama, where)
        schema.expect(path, "hidden_act", llama.hidden_act, "silu", "the LLaMA here")
        heads = llama.num_attention_heads
        if llama.head_dim is not None and llama.head_dim * heads != llama.hidden_size:
            raise UserError(
                f"{path}: head_dim {llama.head_dim} x {heads} heads is not hidden_size "
                f"{llama.hidden_size}, as it is for the LLaMA here"
            )
        return LlamaConfig(
            vocab_size=llama.vocab_size,
            hidden_size=llama.hidden_size,
            intermediate_size=llama.intermediate_size,
            num_layers=llama.num_hidden_layers,
            num_heads=heads,
            num_kv_heads=llama.num_key_value_heads or heads,
            rms_norm_eps=llama.rms_norm_eps,
            rope_theta=_rope_theta(llama, path),
            max_positions=llama.max_position_embeddings,
            **_ids(llama),
        )
    raise UserError(f"{path}: language model {shown(kind)}; expected llama or bloom")


def _rope_theta(llama: schema.Llama, path: Path) -> float:
    """The base of rotary positions. Raises UserError where they are scaled or cover a part."""
    thetas = [llama.rope_theta]
    for rope in (llama.rope_parameters, llama.rope_scaling):
        if rope is None:
            continue
        kind = next((name for name in (rope.rope_type, rope.type) if name is not UNSET), "default")
        if kind != "default":
            raise UserError(f"{path}: rope of type {shown(kind)}; expected plain rotary positions")
        schema.expect(
            path, "partial_rotary_factor", rope.partial_rotary_factor, 1.0, "the LLaMA here"
        )
        thetas.append(rope.rope_theta)
    schema.expect(path, "partial_rotary_factor", llama.partial_rotary_factor, 1.0, "the LLaMA here")
    said = {theta for theta in thetas if not isinstance(theta, UnsetType)}
    if len(said) > 1:
        raise UserError(f"{path}: two values of rope_theta, {sorted(said)}; expected one")
    return said.pop() if said else 10000.0


def _ids(text: schema.Llama | schema.Bloom) -> dict[str, Any]:
    """The special ids that a file says; for the others, and -1, the defaults stand."""
    ids: dict[str, Any] = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(text, name)
        if isinstance(value, list):  # any of them ends a text; the first is the usual one
            value = value[0]
        if value is not None and value >= 0:
            ids[name] = value
    return ids


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
    (directory / schema.CONFIG_FILE).write_text(written, encoding="utf-8")


def _updated(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with the values of `new`, at every depth."""
    result = dict(old)
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            value = _updated(before, value)
        result[key] = value
    return result
