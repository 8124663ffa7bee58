"""Trains one stage of the demonstration, from its config file and the models of earlier stages."""

from __future__ import annotations

import math
import os
import runpy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ml_collections import ConfigDict

from owl_jax.errors import UserError
from owl_jax.malloc import keep_large_buffers
from owl_jax.training.loop import train


def use_cores_well() -> None:
    """Prepares this process for training a small model on processor cores, before JAX computes.

    Each core becomes a device, at most eight: the operations of so small a model are too short to
    be divided among cores, parts of a batch are not. A number of devices in XLA_FLAGS stays. And
    malloc keeps large buffers.
    """
    import jax

    cores = min(os.cpu_count() or 1, 8)
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", 1 << cores.bit_length() - 1)
    keep_large_buffers()


def train_stage(
    config_file: Path,
    workdir: Path,
    init: Mapping[str, Path],
    scale: float = 1.0,
    seed: int = 0,
    change: Callable[[ConfigDict], None] = lambda config: None,
) -> Path:
    """Trains the config of `config_file`, writing to `workdir`; returns the model's directory.

    Args:
      init: model directories that initialise subtrees of the parameters, instead of the config's.
      scale: multiplies the steps.
      seed: draws the initial weights, the examples and their order.
      change: edits the config before steps and seeds are set.

    Raises UserError as `training.loop.train` does, for a missing file, and for a scale that is not
    positive.
    """
    config = load_config(config_file)
    if not 0 < scale < math.inf:
        raise UserError(f"--scale={scale}: expected a number above 0")
    change(config)
    config.seed = seed
    config.data.mixture = tuple(
        (replace(source, seed=seed), *rest) for source, *rest in config.data.mixture
    )
    config.export = "orbax"
    config.steps = max(round(config.steps * scale), 2)
    for recipe in config.recipes.values():
        recipe.warmup_steps = min(recipe.warmup_steps, config.steps // 2)
    for subtree, directory in init.items():
        config.init[subtree] = str(directory)
    train(config, workdir)
    return workdir / "model"


def load_config(config_file: Path) -> ConfigDict:
    """The config of a stage. Raises UserError for a missing file."""
    if not config_file.is_file():
        raise UserError(f"{config_file} is missing; give the stages' directory with --configs=DIR")
    return runpy.run_path(str(config_file))["get_config"]()
