"""The training loop, top to bottom: mesh, data, weights, step, checkpoints, export.

Weights start in this order: the newest checkpoint of the workdir; else, branch by branch, what
`config.init` names (a directory, or "fresh"). Frozen weights always come from `config.init`: they
are not in checkpoints, their tree hash is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental.multihost_utils import process_allgather
from ml_collections import ConfigDict

from owl_jax.checkpoint.adapter_base import Base
from owl_jax.checkpoint.manager import Checkpoints
from owl_jax.checkpoint.model_directory import save_model
from owl_jax.checkpoint.tree_hash import tree_hash
from owl_jax.data.batch import Batch
from owl_jax.errors import UserError, printable
from owl_jax.models.config import PARTS, OwlConfig
from owl_jax.parallel.chips import peak_flops
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import process_batch_shard, shard_batch
from owl_jax.training import config as settings
from owl_jax.training.data import open_data, steps_of_epochs
from owl_jax.training.init_params import initialize, unrounded
from owl_jax.training.metrics import MetricWriter
from owl_jax.training.optimizer import learning_rates
from owl_jax.training.partition import merge, split, table
from owl_jax.training.preemption import Preemption
from owl_jax.training.profile import Profile
from owl_jax.training.run_lock import RunLock
from owl_jax.training.start_up import StartUp, memory
from owl_jax.training.state import place_state
from owl_jax.training.throughput import Clock
from owl_jax.training.train_program import make_program
from owl_jax.training.watchdog import Watchdog

Tree = dict[str, Any]

_BASE = "frozen base"  # of a checkpoint's meta


def train(config: ConfigDict, workdir: Path) -> Path | None:
    """Trains, or resumes, what `config` describes; returns the exported model's directory.

    A run that is at its last step already is left as it is. One run at a time has the workdir
    (run_lock.py).

    Raises UserError for whatever the user can mend: missing weights or data, a checkpoint of
    another model, a workdir that another run is using, a full disk, a loss that stays non-finite;
    Preempted after SIGTERM, and Interrupted after Ctrl-C.
    """
    settings.check_values(config)
    settings.check_directories(config)
    with Preemption() as preemption, ExitStack() as held:
        lock = _hold(workdir, held)
        return _train(config, workdir, preemption, lock)


def _train(
    config: ConfigDict, workdir: Path, preemption: Preemption, lock: RunLock | None
) -> Path | None:
    start_up = StartUp()
    model, mesh = settings.read_model(config), make_mesh(**config.mesh)
    part, parts = process_batch_shard(mesh)
    with start_up.phase("data"):
        data = open_data(config, model, workdir, part, parts)
        if config.epochs:
            config.steps = steps_of_epochs(config, data)
            _say(f"config.epochs={config.epochs}: {config.steps} steps")
    program = make_program(config, mesh)
    _say(table(program.params, program.labels, program.recipes))

    with (
        closing(data),
        closing(
            Checkpoints(workdir / "checkpoints", config.keep_checkpoints, config.checkpoint_every)
        ) as checkpoints,
    ):
        with start_up.phase("weights"):
            trainable, frozen = split(initialize(config, program), program.labels)
            meta = _describe(model, frozen, config)
            frozen = program.arrange(frozen)
        with start_up.phase("checkpoint"):
            resumed = checkpoints.resume(
                program.state(),
                data.batches if config.data.resume else None,
                {k: v for k, v in meta.items() if not (config.any_base and k == _BASE)},
                {_BASE: ", or insist with --config.any_base=True"},
                config.skip_damaged,
                _say,
            )
            if resumed:
                start, state = resumed
                _say(f"resumed from step {start} of {workdir}")
            else:
                places = jax.tree.map(lambda leaf: leaf.sharding, trainable)
                start, state = 0, place_state(trainable, program.optimizer, places, mesh)
        del trainable  # the state took it over, or its place
        if start < config.steps:
            with start_up.phase("tracing"):
                lowered = program.trace().lower()
            with start_up.phase("compiling"):
                step = lowered.compile()
            _say(f"{memory(step)}\n{start_up}")
        if jax.process_index() == 0:
            text = config.to_json_best_effort(indent=2)
            (workdir / "config.json").write_text(f"{text}\n", encoding="utf-8")
            start_up.write(workdir)

        target = None if config.export == "none" else workdir / "model"
        if start < config.steps:
            _keep_as_former(workdir / "model", start)
        peak = peak_flops(mesh.devices.flat[0].device_kind)
        preemption.training_begins()
        with (
            MetricWriter(workdir, config.steps, start, workdir.name) as writer,
            closing(Profile(workdir, *config.profile)) as profile,
            Watchdog(config.hang_report, config.hang_exit, start) as watchdog,
            closing(
                Clock(parts, program.flops(), peak and peak * mesh.size, watchdog.step_ended)
            ) as clock,
        ):
            for number in range(start + 1, config.steps + 1):
                with profile.step(number):
                    try:
                        with clock.waiting_for_data():
                            rows = next(data.batches)
                    except UserError:
                        # Nothing is lost: once the data are mended the run goes on from here.
                        if jax.process_count() == 1 and number > start + 1:
                            checkpoints.save(number - 1, state, data.batches, meta, force=True)
                        raise
                    state, metrics = step(state, frozen, Batch(**shard_batch(vars(rows), mesh)))
                    clock.count(number, metrics["loss"], rows)
                if profile.ends(number):
                    with clock.leaving_out(), watchdog.patient():
                        profile.close()
                if number % config.log_every == 0 or number in (start + 1, config.steps):
                    # A skipped step does not move the schedule.
                    taken = number - 1 - metrics["skipped"]
                    metrics |= learning_rates(program.recipes, config.steps, taken)
                    metrics["dropped"] = data.drops.reasons.total()
                    metrics["text_only"] = data.drops.text_only
                    writer.write(number, metrics | clock.read())
                    if number in (start + 1, config.steps):
                        _say(data.drops.summary())
                    _stop_if_diverged(metrics, config.max_skipped_steps, number)
                if lock:
                    lock.check()
                is_last = number == config.steps
                preempted = preemption.reached(number) and not is_last
                with watchdog.patient():
                    force = preempted or is_last
                    checkpoints.save(number, state, data.batches, meta, force)
                    if preempted:
                        checkpoints.wait()
                        preemption.end(f"step {number} of {config.steps} is saved in {workdir}")

    if start < config.steps:
        preemption.training_ends(f"step {config.steps} of {config.steps} is saved in {workdir}")

    if start >= config.steps and (target is None or target.exists()):
        _say(f"nothing left to do: {workdir} is at step {start} of {config.steps}")
    elif target is not None:
        params = unrounded(config, merge(state.params, program.stacked(frozen)))
        base = Base.of(config.init.llm, params["llm"]) if "lora" in params else None
        tokenizer = Path(settings.tokenizer_directory(config))
        save_model(target, model, params, config.export, tokenizer, base)
    return target


def _hold(workdir: Path, held: ExitStack) -> RunLock | None:
    """The first of several processes holds the workdir for all; all end if another run has it."""
    lock, refusal = None, None
    if jax.process_index() == 0:
        try:
            lock = held.enter_context(RunLock(workdir, _say))
        except UserError as error:
            refusal = error
    if jax.process_count() > 1:
        refused = process_allgather(np.array([refusal is not None])).any()
        if refused and refusal is None:
            refusal = UserError(f"process 0 cannot take {workdir} for this run")
    if refusal:
        raise refusal
    return lock


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


def _keep_as_former(model: Path, step: int) -> None:
    """An earlier end of this run, before config.steps was raised, is not its model any more."""
    if jax.process_index() == 0 and model.exists():
        former = model.with_name(f"{model.name}-{step}")
        shutil.rmtree(former, ignore_errors=True)
        model.rename(former)


def _stop_if_diverged(metrics: Mapping[str, Any], limit: int, step: int) -> None:
    in_a_row = int(metrics["skipped_in_a_row"])
    if in_a_row >= limit:
        raise UserError(
            f"step {step}: the loss or gradient of the last {in_a_row} steps was not finite; all "
            "were skipped. Lower the learning rate, or look at the data of these steps"
        )


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(printable(text, keep="\n"), flush=True)
