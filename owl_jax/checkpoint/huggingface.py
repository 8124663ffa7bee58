"""The released Hugging Face directories: config.json and *.safetensors, read and written.

Nothing is ever left at random values: a missing, unexpected, duplicate or mis-shaped tensor is an
error that lists them all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from owl_jax.checkpoint import table
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


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a model's weights: those of the index, or model.safetensors.

    Raises UserError if there are none, or the index names a file that is not there.
    """
    index = directory / "model.safetensors.index.json"
    if index.exists():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(name for name in names if not (directory / name).exists())
        if missing:
            raise UserError(f"{index} names {', '.join(missing)}, which is not there")
        return [directory / name for name in sorted(names)]
    single = directory / "model.safetensors"
    if not single.exists():
        raise UserError(f"{directory}: no model.safetensors and no index of shards; is it a model?")
    return [single]


class TensorFiles:
    """The tensors of some safetensors files, read one at a time.

    Raises UserError if a file is damaged or a tensor is in two of them.
    """

    def __init__(self, paths: Sequence[Path]):
        self._files: dict[str, Any] = {}
        duplicates = []
        for path in paths:
            try:
                handle = safe_open(path, framework="numpy")
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: not a readable safetensors file ({error})") from error
            for name in handle.keys():  # noqa: SIM118 - safe_open is no mapping
                if name in self._files:
                    duplicates.append(name)
                self._files[name] = handle
        if duplicates:
            raise UserError(f"{paths[0].parent}: in more than one file: {', '.join(sorted(duplicates))}")

    def names(self) -> set[str]:
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)


def read_config(directory: Path) -> OwlConfig:
    """Reads config.json of a released variant; `temporal` is seen in the tensor names.

    Raises UserError for a missing or unsuitable file.
    """
    path = directory / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{directory}: no config.json; expected a model directory") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    missing = {"vision_config", "visual_abstractor_config", "text_config"} - values.keys()
    if missing:
        raise UserError(
            f"{path}: no {', '.join(sorted(missing))}; expected the config of an mPLUG-Owl model"
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
            "intermediate_size": abstractor.mlp_size,
            "num_hidden_layers": abstractor.num_layers,
            "num_attention_heads": abstractor.num_heads,
            "layer_norm_eps": abstractor.layer_norm_eps,
        },
    }
    (directory / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def abstract_params(config: OwlConfig) -> dict[str, Any]:
    """Shapes of the whole tree without memory."""
    return nn.meta.unbox(jax.eval_shape(lambda k: init_params(config, Compute(), k), jax.random.key(0)))


def read_params(config: OwlConfig, directory: Path, dtype: Any) -> dict[str, Any]:
    """Reads {"vision", "abstractor", "llm"} as NumPy arrays of `dtype`.

    Raises UserError that lists every missing, unexpected and mis-shaped tensor.
    """
    files = TensorFiles(weight_files(directory))
    shapes = flatten_dict(abstract_params(config), sep="/")
    expected = {
        source: (row, layer) for row in table.rows(config) for layer, source in _sources(row, shapes)
    }
    tied = table.tied(config)
    names = {name for name in files.names() if not table.BUFFERS.fullmatch(name)}
    problems = [f"missing: {name}" for name in sorted(expected.keys() - names)]
    problems += [f"unexpected: {name}" for name in sorted(names - expected.keys() - tied.keys())]
    for name in sorted(expected.keys() & names):
        row, layer = expected[name]
        want = row.layout.source_shape(_layer_shape(row, shapes))
        if files.shape(name) != want:
            problems.append(f"shape of {name}: found {files.shape(name)}, expected {want}")
    problems += [
        f"tied, but different from {original}: {copy}"
        for copy, original in tied.items()
        if {copy, original} <= names and not np.array_equal(files.read(copy), files.read(original))
    ]
    if problems:
        raise UserError(f"{directory}: {len(problems)} tensors do not fit:\n  " + "\n  ".join(problems))
    params: dict[str, np.ndarray] = {}
    for source, (row, layer) in expected.items():
        value = row.layout.read(files.read(source), _layer_shape(row, shapes)).astype(dtype)
        if layer is None:
            params[row.target] = np.ascontiguousarray(value)
        else:
            params.setdefault(row.target, np.empty(shapes[row.target].shape, dtype))[layer] = value
    return unflatten_dict(params, sep="/")


def write_params(config: OwlConfig, params: Mapping[str, Any], directory: Path) -> None:
    """Writes model.safetensors with the original's names. An adapter must be merged before."""
    flat = flatten_dict(dict(params), sep="/")
    tensors = {}
    for row in table.rows(config):
        value = np.asarray(flat[row.target])
        for layer, source in _sources(row, flat):
            tensors[source] = np.ascontiguousarray(
                row.layout.write(value if layer is None else value[layer])
            )
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _sources(row: table.Row, shapes: Mapping[str, Any]) -> Iterator[tuple[int | None, str]]:
    if not row.per_layer:
        yield None, row.source
        return
    for layer in range(shapes[row.target].shape[0]):
        yield layer, row.source.format(i=layer)


def _layer_shape(row: table.Row, shapes: Mapping[str, Any]) -> tuple[int, ...]:
    shape = shapes[row.target].shape
    return shape[1:] if row.per_layer else shape
