"""Restores the state of a run from its newest checkpoint, or initialises it.

Trainable weights come from the newest checkpoint of the workdir, or else, subtree by subtree, from
`config.init` (a directory, or "fresh"). Frozen weights always come from `config.init`; checkpoints
contain only their hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from owl_jax.checkpoint.tree_hash import tree_hash
from owl_jax.models.config import OwlConfig
from owl_jax.training.init_params import initialize
from owl_jax.training.partition import split
from owl_jax.training.run import Run
from owl_jax.training.start_up import StartUp, say
from owl_jax.training.state import TrainState, place_state

Tree = dict[str, Any]

_CONVERSATION = "config.model.conversation"
_BASE = "frozen base"  # key in a checkpoint's meta


def restore_or_initialize(run: Run, start_up: StartUp) -> tuple[TrainState, Tree]:
    """The state and frozen weights to start from; sets `run.start` and `run.meta`.

    With `config.data.resume`, the data resume from the checkpoint's position.

    Raises UserError as `initialize` and `Checkpoints.resume` do.
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
            _field_defaults(program.model),
        )
        if resumed:
            run.start, state = resumed
            say(f"resumed from step {run.start} of {run.workdir}")
        else:
            shardings = jax.tree.map(lambda leaf: leaf.sharding, trainable)
            state = place_state(trainable, program.optimizer, shardings, program.mesh)
    return state, frozen


def _field_defaults(model: OwlConfig) -> dict[str, Any]:
    """The entries of the model's fields at their defaults: checkpoints lack fields added later."""

    def defaults(part: Any) -> dict[str, Any]:
        found = {field.name: field.default for field in fields(part)}
        return {name: value for name, value in found.items() if value is not MISSING}

    own = {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in defaults(model).items()
    }
    parts = {name: defaults(part) for name, part in model.parts.items()}
    return _flat({**own, **parts})


def _flat(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's fields by key of the training config, with lists for tuples, as in a checkpoint."""
    flat = flatten_dict({"config": {"model": json.loads(json.dumps(model))}}, sep=".")
    return dict(flat)


def _describe(model: OwlConfig, frozen: Tree, config: ConfigDict) -> dict[str, Any]:
    """Metadata that a checkpoint must match; an entry per field, so that errors name the field."""
    described = _flat(model.to_dict())
    # Runs that differ only in how weights are initialised may share checkpoints.
    for subtree, part in model.parts.items():
        for name in part.INIT_ONLY:
            del described[f"config.model.{subtree}.{name}"]
    # Part of the data's position (training/data.py).
    described = {k: v for k, v in described.items() if not k.startswith(_CONVERSATION)}
    directories = ", ".join(sorted({config.init[name] for name in frozen})) or "nothing"
    described |= {
        _BASE: tree_hash(frozen) if frozen else "none",
        f"{_BASE} name": f"{directories} in {config.frozen_dtype}",
    }
    return described
