"""From directories to a model on the device."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from owl_jax.checkpoint.adapter import CONFIG_FILE, read_adapter
from owl_jax.checkpoint.model_directory import is_own, load_model, read_branches, read_config
from owl_jax.errors import UserError
from owl_jax.inference.engine import Owl
from owl_jax.models.config import Compute, LoraConfig, OwlConfig
from owl_jax.models.owl import init_params
from owl_jax.parallel.sharding import LogicalRules, param_shardings

DTYPES = ("bfloat16", "float32")


def load_owl(path: str | Path, dtype: Any, adapter: str | Path | None, mesh: Mesh | None) -> Owl:
    """Reads a model directory, and an adapter for it; see `owl_jax.load`."""
    if dtype not in DTYPES and dtype not in map(jnp.dtype, DTYPES):
        raise UserError(f"dtype {dtype!r}; expected {' or '.join(DTYPES)}")
    directory = Path(path)
    config, params = load_model(directory, dtype)
    if adapter is not None:
        if config.lora is not None:
            raise UserError(
                f"{path} holds an adapter already; save it in the huggingface format, which merges "
                "it, before you load another"
            )
        lora_config, params["lora"] = _read_any_adapter(Path(adapter), config, dtype)
        config = dataclasses.replace(config, lora=lora_config)
    flat = flatten_dict(params)
    del params
    shardings: dict[Any, Any] = {}
    if mesh is not None:
        boxed = jax.eval_shape(partial(init_params, config, Compute()), jax.random.key(0))
        shardings = flatten_dict(param_shardings(boxed, mesh, LogicalRules()))
    # Each array of the host is let go as soon as it is on the device.
    placed = {name: jax.device_put(flat.pop(name), shardings.get(name)) for name in list(flat)}
    return Owl(
        config,
        unflatten_dict(placed),
        dtype,
        directory,
        mesh,
        as_trained=is_own(directory),
    )


def _read_any_adapter(
    directory: Path, config: OwlConfig, dtype: Any
) -> tuple[LoraConfig | None, dict[str, Any]]:
    """A PEFT directory's adapter, or that of a model directory of ours."""
    if (directory / CONFIG_FILE).exists() or not (directory / "config.json").exists():
        return read_adapter(directory, config, dtype)
    adapted = read_config(directory)
    if dataclasses.replace(adapted, lora=None) != config:
        raise UserError(f"{directory}: the adapter of another model; its config.json differs")
    return adapted.lora, read_branches(directory, ["lora"], dtype)["lora"]
