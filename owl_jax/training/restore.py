"""Where a run goes on: the newest checkpoint, or else weights that are read or drawn.

Weights come from, in this order: the newest checkpoint of the workdir; else, tower by tower, what
`config.init` names (a directory, or "fresh"). Frozen weights always come from `config.init`: they
are not in checkpoints, their hash is.
"""

from __future__ import annotations

import json
from typing import Any

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from owl_jax.checkpoint.tree_hash import tree_hash
from owl_jax.models.config import PARTS, OwlConfig
from owl_jax.training.init_params import initialize
from owl_jax.training.partition import split
from owl_jax.training.run import Run
from owl_jax.training.start_up import StartUp, say
from owl_jax.training.state import TrainState, place_state

Tree = dict[str, Any]

_BASE = "frozen base"  # of a checkpoint's meta


def restore_or_initialize(run: Run, start_up: StartUp) -> tuple[TrainState, Tree]:
    """The state and the frozen weights that the run goes on from; sets `run.start` and `run.meta`.

    The data go on from the checkpoint's position, unless `config.data.resume` says otherwise.

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
            {_BASE: ", or insist with --config.allow_base_mismatch=True"},
            config.skip_damaged,
            say,
        )
        if resumed:
            run.start, state = resumed
            say(f"resumed from step {run.start} of {run.workdir}")
        else:
            shardings = jax.tree.map(lambda leaf: leaf.sharding, trainable)
            state = place_state(trainable, program.optimizer, shardings, program.mesh)
    return state, frozen


def _describe(model: OwlConfig, frozen: Tree, config: ConfigDict) -> dict[str, Any]:
    """What a checkpoint must agree on: one entry a field, so that a message names the one field."""
    flat = flatten_dict({"config": {"model": model.to_dict()}}, sep=".")
    # Runs that differ only in how weights are initialised may share checkpoints.
    for part in PARTS:
        for name in getattr(model, part).INIT_ONLY:
            del flat[f"config.model.{part}.{name}"]
    # As JSON gives it back: lists instead of tuples.
    described: dict[str, Any] = json.loads(json.dumps(flat))
    directories = ", ".join(sorted({config.init[name] for name in frozen})) or "nothing"
    described |= {
        _BASE: tree_hash(frozen) if frozen else "none",
        f"{_BASE} name": f"{directories} in {config.frozen_dtype}",
    }
    return described
