"""Restores the state of a run from its newest checkpoint, or initialises it.

Trainable weights come from the newest checkpoint of the workdir, or else, subtree by subtree, from
`config.init` (a directory, or "fresh"). Frozen weights always come from `config.init`; checkpoints
contain only their hash.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, cast

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from owl_jax.checkpoint.tree_hash import tree_hash
from owl_jax.models.config import OwlConfig
from owl_jax.models.parts import Part
from owl_jax.training.init_params import initialize
from owl_jax.training.partition import split
from owl_jax.training.run import Run
from owl_jax.training.start_up import StartUp, say
from owl_jax.training.state import TrainState, place_state

Tree = dict[str, Any]

_BASE = "frozen base"  # of a checkpoint's meta


def restore_or_initialize(run: Run, start_up: StartUp) -> tuple[TrainState, Tree]:
    """The state and frozen weights to start from; sets `run.start` and `run.meta`.

    With `config.data.resume`, the data resume from the checkpoint's position.

    Raises UserError as `initialize` and `Checkpoints.resume`.
    """
    config, program = run.config, run.program
    with start_up.phase("weights"):
        trainable, frozen = split(initialize(config, program), program.labels)
        run.meta = _describe(program.model, frozen, config)
        frozen = program.arrange(frozen)
    with start_up.phase("checkpoint"):
        expected = {
            k: v for k, v in run.meta.items() if not (config.allow_base_mismatch and k == _BASE)
        }
        resumed = run.checkpoints.resume(
            program.state(),
            run.data.batches if config.data.resume else None,
            expected,
            {_BASE: ", or allow it with --config.allow_base_mismatch=True"},
            config.skip_damaged,
            say,
            _defaults(program.model),
        )
        if resumed:
            run.start, state = resumed
            say(f"resumed from step {run.start} of {run.workdir}")
        else:
            shardings = jax.tree.map(lambda leaf: leaf.sharding, trainable)
            state = place_state(trainable, program.optimizer, shardings, program.mesh)
    return state, frozen


def _defaults(model: OwlConfig) -> dict[str, Any]:
    """The entries of `_describe` with the defaults of all fields, for checkpoints that are older
    than a field."""
    found: dict[str, Any] = {}
    for where, part in (("config.model", model), *_parts(model)):
        for field in dataclasses.fields(cast(Any, part)):
            value = field.default
            if value is not dataclasses.MISSING:
                nested = dataclasses.is_dataclass(value)
                found[f"{where}.{field.name}"] = (
                    dataclasses.asdict(cast(Any, value)) if nested else value
                )
    described: dict[str, Any] = json.loads(json.dumps(flatten_dict(found, sep=".")))
    return described


def _parts(model: OwlConfig) -> list[tuple[str, Part]]:
    """The parts by their key in a training's config."""
    return [(f"config.model.{subtree}", part) for subtree, part in model.parts.items()]


def _describe(model: OwlConfig, frozen: Tree, config: ConfigDict) -> dict[str, Any]:
    """Metadata that a checkpoint must match, one entry a field so that errors name the field."""
    flat = flatten_dict({"config": {"model": model.to_dict()}}, sep=".")
    # Runs that differ only in how weights are initialised may share checkpoints.
    for where, part in _parts(model):
        for name in part.INIT_ONLY:
            del flat[f"{where}.{name}"]
    # Through JSON, so that tuples compare equal to the lists of a checkpoint.
    described: dict[str, Any] = json.loads(json.dumps(flat))
    directories = ", ".join(sorted({config.init[name] for name in frozen})) or "nothing"
    described |= {
        _BASE: tree_hash(frozen) if frozen else "none",
        f"{_BASE} name": f"{directories} in {config.frozen_dtype}",
    }
    return described
