"""Loads a model from directories onto devices."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from owl_jax.checkpoint.checksums import verify as check_sums
from owl_jax.checkpoint.int8 import quantize
from owl_jax.checkpoint.lazy_arrays import device_put_lazy
from owl_jax.checkpoint.model_directory import add_adapter, open_model
from owl_jax.errors import UserError, shown
from owl_jax.inference.api import Owl
from owl_jax.inference.arguments import DTYPES
from owl_jax.models.own_parts import add_parts
from owl_jax.models.vlm import abstract_params
from owl_jax.parallel.sharding import LogicalRules, param_shardings
from owl_jax.text.formats.choose import read_name


def load_owl(
    path: str | Path,
    dtype: Any,
    adapter: str | Path | None,
    mesh: Mesh | None,
    any_base: bool = False,
    verify: bool = False,
    parts: Sequence[str | Path] = (),
    conversation: str | Path | None = None,
) -> Owl:
    """Loads a model directory and optionally an adapter; see `owl_jax.load`."""
    name = _name_of(dtype)
    add_parts([parts] if isinstance(parts, str | os.PathLike) else parts)
    for value in [path] if adapter is None else [path, adapter]:
        if not isinstance(value, str | os.PathLike):
            raise UserError(f"{shown(value)} is not a path; expected the path of a model directory")
    directory = Path(path)
    if verify:  # in each process: hosts may have separate copies
        for each in (directory, *([Path(adapter)] if adapter is not None else [])):
            check_sums(each)
    opened = open_model(directory)
    if adapter is not None:
        opened = add_adapter(opened, directory, Path(adapter), any_base)
    config, params = opened.config, opened.params
    if conversation is not None:
        config = dataclasses.replace(config, conversation=read_name(os.fspath(conversation)))
    plain = flatten_dict(params)
    flat = flatten_dict(quantize(config, params)) if name == "int8" else plain
    replicated, shardings = None, {}
    if mesh is not None:
        replicated = NamedSharding(mesh, PartitionSpec())
        boxed = abstract_params(config)
        shardings = flatten_dict(param_shardings(boxed, mesh, LogicalRules()))
    stored_as = jnp.dtype("bfloat16" if name == "int8" else name)
    on_device = {}
    for keys, leaf in flat.items():
        dtype = stored_as if leaf is plain.get(keys) else leaf.dtype  # quantised: unchanged
        on_device[keys] = device_put_lazy(leaf, dtype, shardings.get(keys, replicated))
    opened.print_notes(directory)
    return Owl(
        config,
        unflatten_dict(on_device),
        # A CPU computes in float32 only; it would cast bfloat16 back and forth at every step.
        "float32" if jax.default_backend() == "cpu" else stored_as,
        directory,
        mesh,
        as_trained=opened.as_trained,
    )


def _name_of(dtype: Any) -> str:
    """The name of `dtype` in DTYPES. Raises UserError for any other."""
    try:
        # NumPy takes None for float64.
        name = "" if dtype is None else jnp.dtype(dtype).name
    except (TypeError, ValueError):
        name = ""
    if name not in DTYPES:
        raise UserError(f"dtype {shown(dtype)}; expected one of {', '.join(DTYPES)}")
    return name
