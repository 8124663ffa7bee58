"""Loads a model from directories onto devices."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from owl_jax.checkpoint.checksums import verify as check_sums
from owl_jax.checkpoint.hub_directory import model_directory
from owl_jax.checkpoint.int8 import quantize
from owl_jax.checkpoint.lazy_arrays import LazyArray, device_put_lazy
from owl_jax.checkpoint.model_directory import Opened, add_adapter, open_model
from owl_jax.errors import UserError, shown
from owl_jax.hub.snapshot import tell_if_ambiguous
from owl_jax.inference.api import Owl
from owl_jax.inference.arguments import CACHE_DTYPES, DTYPES
from owl_jax.inference.core import OWNERS
from owl_jax.inference.layouts import formats
from owl_jax.models.config import read_conversation
from owl_jax.models.lora import side_by_side
from owl_jax.models.own_parts import add_parts
from owl_jax.models.vlm import abstract_params
from owl_jax.parallel.sharding import LogicalRules, param_shardings
from owl_jax.text.formats.choose import parse_conversation


def load_owl(
    path: str | Path,
    dtype: Any,
    adapter: str | Path | None,
    mesh: Mesh | None,
    any_base: bool = False,
    verify: bool = False,
    parts: Sequence[str | Path] = (),
    conversation: str | Path | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    cache_dtype: str = "auto",
) -> Owl:
    """Loads a model directory and optionally adapters; see `owl_jax.load`."""
    name = _name_of(dtype)
    if cache_dtype not in CACHE_DTYPES:
        known = ", ".join(CACHE_DTYPES)
        raise UserError(f"cache_dtype {shown(cache_dtype)}; expected one of {known}")
    add_parts([parts] if isinstance(parts, str | os.PathLike) else parts)
    if adapters and adapter is not None:
        raise UserError("give either `adapter`, which all answers use, or `adapters`")
    directory = _directory(path, verify)
    alone = None if adapter is None else _directory(adapter, verify)
    several = {name: _directory(each, verify) for name, each in (adapters or {}).items()}
    opened = open_model(directory)
    owners = None
    if several:
        opened, owners = _add_adapters(opened, directory, several, any_base)
    if alone is not None:
        opened = add_adapter(opened, directory, alone, any_base)
    config, params = opened.config, opened.params
    if conversation is not None:
        chosen = parse_conversation(os.fspath(conversation))
        if not isinstance(chosen, str):  # a file's: nothing has checked its values
            try:
                chosen = read_conversation(dataclasses.asdict(chosen))
            except TypeError as error:
                raise UserError(f"{conversation}: {error}") from None
        config = dataclasses.replace(config, conversation=chosen)
    plain = flatten_dict(params)
    flat = flatten_dict(quantize(config, params)) if name == "int8" else plain
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    default: Sharding = SingleDeviceSharding(device)
    if mesh is not None:
        default = NamedSharding(mesh, PartitionSpec())
    shardings = dict.fromkeys(flat, default)
    if mesh is not None:
        boxed = abstract_params(config)
        shardings |= flatten_dict(param_shardings(boxed, mesh, LogicalRules()))
    on_devices = formats(config, flat, shardings, device.platform)
    stored_as = jnp.dtype("bfloat16" if name == "int8" else name)
    on_device = {}
    for keys, leaf in flat.items():
        dtype = stored_as if leaf is plain.get(keys) else leaf.dtype  # quantised: unchanged
        on_device[keys] = device_put_lazy(leaf, dtype, on_devices[keys])
    opened.print_notes(directory)
    params = unflatten_dict(on_device)
    if owners is not None:
        params[OWNERS] = jax.device_put(owners, default)
    return Owl(
        config,
        params,
        # Outside of matmuls a CPU would cast bfloat16 back and forth at every step.
        "float32" if jax.default_backend() == "cpu" else stored_as,
        directory,
        mesh,
        as_trained=opened.as_trained,
        adapters=tuple(adapters or ()),
        cache_dtype=cache_dtype,
    )


def _directory(name: Any, verify: bool) -> Path:
    """The directory of a model or an adapter, checked if `verify`."""
    if not isinstance(name, str | os.PathLike):
        raise UserError(
            f"{shown(name)} is not a path; expected the path of a model directory, or a name of "
            "the hub"
        )
    tell_if_ambiguous(name)
    directory = model_directory(name, whole=verify)
    if verify:  # in each process: hosts may have separate copies
        check_sums(directory)
    return directory


def _add_adapters(
    opened: Opened, directory: Path, adapters: Mapping[str, Path], any_base: bool
) -> tuple[Opened, np.ndarray]:
    """The model with several adapters side by side, and the owner of each of their ranks.

    Raises UserError for an adapter of another model, and for adapters that were trained with
    different prompts or pictures.
    """
    each = {name: add_adapter(opened, directory, path, any_base) for name, path in adapters.items()}
    first_name, first = next(iter(each.items()))
    for name, other in each.items():
        for field in ("conversation", "resizing"):
            ours, theirs = getattr(first.config, field), getattr(other.config, field)
            if ours != theirs:
                raise UserError(
                    f"adapter {name} was trained with {field} {theirs}, {first_name} with {ours}; "
                    "adapters of one server need the same"
                )
        if other.as_trained != first.as_trained:
            raise UserError(
                f"adapters {name} and {first_name} tokenize prompts differently: one was trained "
                "by owl_jax, the other was not; serve them apart"
            )
    found = []
    for other in each.values():
        assert other.config.lora is not None
        tree = jax.tree.map(_whole, other.params["lora"])
        found.append((other.config.lora, tree))
    lora, factors, owners = side_by_side(found)
    config = dataclasses.replace(first.config, lora=lora)
    params = {**opened.params, "lora": factors}
    return dataclasses.replace(first, config=config, params=params), owners


def _whole(leaf: LazyArray) -> np.ndarray:
    return np.asarray(leaf[tuple(slice(0, size) for size in leaf.shape)])


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
