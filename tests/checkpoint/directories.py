"""Model directories that tests damage, cut into shards, or rename into CLIP, LLaMA and BLOOM."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import golden
import jax
import numpy as np
from safetensors.numpy import load_file, save_file

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LLAMA = golden.GOLDENS / golden.LLAMA
BLOOM = golden.GOLDENS / golden.BLOOM
VIDEO = golden.GOLDENS / golden.VIDEO
ADAPTER = golden.GOLDENS / golden.LORA


def tensors(directory: Path) -> dict[str, np.ndarray]:
    return load_file(directory / WEIGHTS)


def config(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())


def copy(source: Path, target: Path) -> Path:
    """A copy of a recorded model that may be damaged."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", WEIGHTS):
        shutil.copyfile(source / name, target / name)
    return target


def write(target: Path, values: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> Path:
    """A directory of one file with these weights."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps(values))
    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, target / WEIGHTS)
    return target


def change_config(directory: Path, section: str | None = None, **values: Any) -> None:
    changed = config(directory)
    (changed if section is None else changed[section]).update(values)
    (directory / "config.json").write_text(json.dumps(changed))


def write_shards(directory: Path, **shards: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Writes `shards` and their index, which is returned, in place of the one file."""
    (directory / WEIGHTS).unlink()
    weight_map: dict[str, str] = {}
    for file, held in shards.items():
        save_file(dict(held), directory / f"{file}.safetensors")
        weight_map |= dict.fromkeys(held, f"{file}.safetensors")
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


_CLIP_NAMES = {
    r"embeddings\.patch_embed\.weight": "embeddings.patch_embedding.weight",
    r"embeddings\.cls_token": "embeddings.class_embedding",
    r"embeddings\.position_embedding": "embeddings.position_embedding.weight",
    r"embeddings\.pre_layernorm": "pre_layrnorm",
    r"input_layernorm": "layer_norm1",
    r"post_attention_layernorm": "layer_norm2",
    r"self_attn\.dense": "self_attn.out_proj",
}


def write_clip(target: Path, prefix: str = "vision_model.", **others: np.ndarray) -> Path:
    """The vision encoder of the recorded LLaMA model as CLIP names and cuts it.

    others: tensors besides, of a whole CLIP model; `prefix` is what the tower's names begin with.
    """
    vision = config(LLAMA)["vision_config"]
    heads, weights = vision["num_attention_heads"], {}
    for name, value in tensors(LLAMA).items():
        if not name.startswith("vision_model."):
            continue
        name = prefix + name.removeprefix("vision_model.")
        for ours, theirs in _CLIP_NAMES.items():
            name = re.sub(ours, theirs, name)
        if "query_key_value" in name:  # each head's query, key and value; CLIP has three tensors
            apart = value.reshape(heads, 3, -1, *value.shape[1:])
            for i, letter in enumerate("qkv"):
                one = apart[:, i].reshape(-1, *value.shape[1:])
                weights[name.replace("query_key_value", f"{letter}_proj")] = one
        elif name.endswith("class_embedding"):
            weights[name] = value.reshape(-1)
        elif name.endswith("position_embedding.weight"):
            weights[name] = value[0]
        else:
            weights[name] = value
    values = {"hidden_act": "quick_gelu", **vision}
    if others:
        return write(target, {"model_type": "clip", "vision_config": values}, {**weights, **others})
    return write(target, {**values, "model_type": "clip_vision_model"}, weights)


def write_language(source: Path, target: Path, removed: str = "language_model.") -> Path:
    """The language model of a recorded model alone; `removed` is cut from its tensors' names."""
    weights = {
        name.removeprefix("language_model.").removeprefix(removed): value
        for name, value in tensors(source).items()
        if name.startswith("language_model.")
    }
    return write(target, config(source)["text_config"], weights)


def assert_same_tree(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def assert_same_bits(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape), name
        assert got[name].tobytes() == value.tobytes(), name
