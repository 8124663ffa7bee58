"""PEFT's LoRA directories: adapter_config.json and adapter_model.safetensors, read and written.

Names and transforms come from the base model's table (models/weight_names.py). The adapter of
`llm/layers/q_proj/kernel` is `lora/layers/q_proj/{a,b}` in a parameter tree. In a file it is
`base_model.model.<module>.lora_A.weight` [R, in] and `.lora_B.weight` [out, R]; R is the rank.
The format is that of PEFT 0.4 and later (LoraConfig, save_pretrained), which the original's
training script writes.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from owl_jax.checkpoint.hf_import import abstract_params
from owl_jax.checkpoint.lazy_arrays import Mapped, read
from owl_jax.checkpoint.peft_config import named_targets, read_peft_config
from owl_jax.checkpoint.safetensors_writer import write_file
from owl_jax.checkpoint.schema import ADAPTER_FILE, ADAPTER_WEIGHTS
from owl_jax.checkpoint.tensors import TensorFiles, from_source, to_source
from owl_jax.checkpoint.torch_files import TorchFiles
from owl_jax.errors import UserError, shown
from owl_jax.hub.names import on_hub
from owl_jax.models.config import OwlConfig
from owl_jax.models.families import FAMILIES, Family
from owl_jax.models.families.plain_language import PLAIN_LANGUAGE
from owl_jax.models.lora import LoraConfig
from owl_jax.models.transforms import Linear, Slices
from owl_jax.models.weight_names import Row, with_prefix
from owl_jax.models.weight_names import projections as projections_of

WEIGHTS_FILE, _TORCH_FILE = ADAPTER_WEIGHTS

# Prefix of the language model's tensor names if no family fits the model.
_LANGUAGE_PREFIX = "language_model."
_PREFIX, _BARE_PREFIX = f"base_model.model.{_LANGUAGE_PREFIX}", "base_model.model."


def open_adapter(directory: Path, config: OwlConfig) -> tuple[LoraConfig, dict[str, Any]]:
    """Opens an adapter for the model that `config` describes.

    Returns: (its config, the subtree "lora" of `LazyArray`s).
    Raises UserError for a missing or unsuitable file, and for tensors of another base model or of
    a rank other than `r` in adapter_config.json; the error lists all tensors that do not fit.
    """
    peft = read_peft_config(directory / ADAPTER_FILE)
    if (directory / WEIGHTS_FILE).exists():
        files = TensorFiles([directory / WEIGHTS_FILE])
    elif (directory / _TORCH_FILE).exists():
        files = TorchFiles([directory / _TORCH_FILE])
    else:
        raise UserError(f"{directory}: no {WEIGHTS_FILE} and no {_TORCH_FILE}; is it an adapter?")
    rename = _renaming(config, files.names())
    targets = _targets(peft.target_modules or [], config, rename, directory / ADAPTER_FILE)
    lora = LoraConfig(peft.r, peft.lora_alpha, peft.lora_dropout, targets)
    # The names depend on what PEFT wrapped: the whole model or its language model.
    rows = [
        dataclasses.replace(row, source=f"{_BARE_PREFIX}{rename(row.source)}")
        for row in _rows(config, targets, _LANGUAGE_PREFIX)
    ]
    starts = (_PREFIX, rows[0].source.partition("{i}")[0])
    if not any(name.startswith(starts) for name in files.names()):
        rows = _rows(config, targets, _BARE_PREFIX)
    abstract = abstract_params(dataclasses.replace(config, lora=lora))
    return lora, from_source(rows, files, abstract, directory)["lora"]


def _renaming(config: OwlConfig, names: Collection[str]) -> Callable[[str], str]:
    """Returns a function that maps a module's name in the whole model to its name in the files."""
    family = _family(config)
    if family is None:
        return lambda name: name
    return family.renaming([name.removeprefix(_BARE_PREFIX) for name in names])


def merge_lazy(
    llm: Mapping[str, Any], lora: Mapping[str, Any], config: LoraConfig
) -> dict[str, Any]:
    """The language model with W + (alpha / rank) A B for each adapted W, as `LazyArray`s.

    Each layer is merged in float32 when it is read, and cast back to its dtype.
    """
    merged = flatten_dict(dict(llm))
    factors = flatten_dict(dict(lora))
    for path in {path[:-1] for path in factors}:
        target = (*path, "kernel")
        a, b = (read(factors[(*path, name)], np.float32) for name in "ab")
        merged[target] = Mapped(merged[target], partial(_add_update, a, b, config.scale))
    return unflatten_dict(merged)


def _add_update(
    a: np.ndarray, b: np.ndarray, scale: float, kernel: np.ndarray, part: Slices
) -> Any:
    """kernel[layers, *in, *out] + scale a[layers, *in, R] b[layers, R, *out]."""
    contracted = a.ndim - 2  # number of contracted axes
    layers, inputs, outputs = part[0], part[1 : 1 + contracted], part[1 + contracted :]
    in_part, out_part = a[(layers, *inputs)], b[(layers, slice(None), *outputs)]
    update = [
        np.tensordot(layer_a, layer_b, axes=1)
        for layer_a, layer_b in zip(in_part, out_part, strict=True)
    ]
    return (kernel.astype(np.float32) + scale * np.stack(update)).astype(kernel.dtype)


def write_adapter(
    config: OwlConfig, lora: Mapping[str, Any], directory: Path, base_model_name: str = ""
) -> dict[str, str]:
    """Writes the adapter `lora` into an existing directory, in the form that PEFT writes.

    config: describes the model that has the adapter. lora: its subtree "lora".
    base_model_name: where PEFT finds the base model; ORG/NAME@REVISION is one of the hub.

    Returns: {name of the weights file: its SHA-256}.
    Raises ValueError if the model has no adapter.
    """
    if config.lora is None:
        raise ValueError("config.lora is None: the model has no adapter")
    family = _family(config)
    language_prefix = _language_prefix(config)
    # Restrict the pattern to the language model: the vision encoder may have projections with the
    # same name (query_key_value, as in BLOOM).
    inside = rf".*{re.escape(language_prefix.rstrip('.'))}.*" if language_prefix else ".*"
    projections = _projections(config)
    names = "|".join(re.escape(_suffix(projections[name])) for name in config.lora.targets)
    base = on_hub(base_model_name)
    values = {
        "auto_mapping": None if family is None else family.peft_base,
        "base_model_name_or_path": base.repo if base else base_model_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": config.lora.alpha,
        "lora_dropout": config.lora.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.lora.rank,
        "revision": base.revision if base else None,
        "target_modules": rf"{inside}\.({names})",
        "task_type": "CAUSAL_LM" if config.text_only else None,
    }
    (directory / ADAPTER_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    rows = _rows(config, config.lora.targets, f"{_BARE_PREFIX}{language_prefix}")
    tensors = to_source(rows, {"lora": lora})
    return {WEIGHTS_FILE: write_file(tensors, directory / WEIGHTS_FILE)}


def _targets(
    target_modules: str | list[str], config: OwlConfig, rename: Callable[[str], str], path: Path
) -> tuple[str, ...]:
    """The projections that PEFT adapts."""
    projections = _projections(config)
    layers = range(config.llm.num_layers)
    modules = {name: [rename(_module(row, i)) for i in layers] for name, row in projections.items()}
    targets = named_targets(target_modules, modules, path)
    if not targets:
        raise UserError(
            f"{path}: target_modules {shown(target_modules)} names no projection of this language "
            f"model; it has {', '.join(projections)}"
        )
    return targets


def _rows(config: OwlConfig, targets: Collection[str], prefix: str) -> list[Row]:
    """An adapter's weight table. The input axes of matrix A are transformed like the kernel's."""
    rows = []
    for name, row in _projections(config).items():
        if name in targets:
            module = row.source.removesuffix(".weight").removeprefix(_language_prefix(config))
            target = row.target.replace("llm/", "lora/", 1).removesuffix("kernel")
            rows.append(Row(f"{prefix}{module}.lora_A.weight", f"{target}a", row.transform))
            rows.append(Row(f"{prefix}{module}.lora_B.weight", f"{target}b", Linear()))
    return rows


def _projections(config: OwlConfig) -> dict[str, Row]:
    return projections_of(with_prefix(config.llm.weight_rows(), _language_prefix(config)))


def _family(config: OwlConfig) -> Family | None:
    families = (PLAIN_LANGUAGE, *FAMILIES.values())
    return next((family for family in families if family.fits(config)), None)


def _language_prefix(config: OwlConfig) -> str:
    """The prefix of the language model's tensor names in the whole model."""
    family = _family(config)
    return _LANGUAGE_PREFIX if family is None else family.language_prefix


def _suffix(row: Row) -> str:
    """The projection's name inside its block: "q_proj" for "model.layers.{i}.self_attn.q_proj"."""
    return row.source.removesuffix(".weight").partition("{i}.")[2].partition(".")[2]


def _module(row: Row, layer: int) -> str:
    return row.source.removesuffix(".weight").format(i=layer)
