"""The training loop: opens the data, builds the program, restores or initialises the state, takes
steps and exports the model.

After each step it runs the evaluators, then the hooks. Everything else in a run (metrics,
checkpoints, signals, ...) is a hook (hooks/hook.py).
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from owl_jax import cli
from owl_jax.checkpoint.manager import Checkpoints
from owl_jax.data.batch import Batch
from owl_jax.errors import UserError
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import process_batch_shard, shard_batch
from owl_jax.training import config as settings
from owl_jax.training.data import open_data, steps_of_epochs
from owl_jax.training.evaluators.evaluator import OpenEvaluators, open_evaluators
from owl_jax.training.export import export, export_directory, rename_former_model
from owl_jax.training.extensions import as_json, read_evaluators
from owl_jax.training.hooks.default import make_hooks
from owl_jax.training.hooks.keep_best import restore_best
from owl_jax.training.hub_names import pin_names
from owl_jax.training.partition import table
from owl_jax.training.restore import restore_or_initialize
from owl_jax.training.run import Halted, Run, StepEvent
from owl_jax.training.start_up import COMMAND_FILE, StartUp, memory, say
from owl_jax.training.state import TrainState
from owl_jax.training.train_program import make_program


def train(config: ConfigDict, workdir: Path) -> Path | None:
    """Starts or resumes the run that `config` describes; returns the exported model's directory.

    A finished run is left as it is. Only one run at a time may use the workdir
    (hooks/run_lock.py).

    Raises UserError for anything that the user can fix: missing weights or data, a checkpoint of
    another model, a workdir in use, a full disk, a loss that stays non-finite. Raises Preempted
    after SIGTERM, and Interrupted after Ctrl-C.
    """
    settings.check_values(config)
    pins, absent = pin_names(config, workdir)
    settings.check_directories(config, absent)
    hooks = make_hooks(config)
    with ExitStack() as held:
        for hook in hooks:
            held.enter_context(hook.holding(workdir))
        start_up = StartUp()
        with ExitStack() as opened:
            model, mesh = settings.read_model(config), make_mesh(**config.mesh)
            shard_index, num_shards = process_batch_shard(mesh)
            with start_up.phase("data"):
                data = open_data(config, model, workdir, shard_index, num_shards)
                opened.enter_context(closing(data))
                if config.epochs:
                    config.steps = steps_of_epochs(config, data)
                    say(f"config.epochs={config.epochs}: {config.steps} steps")
            program = make_program(config, mesh)
            say(table(program.params, program.labels, program.recipes))
            checkpoints = Checkpoints(
                workdir / "checkpoints", config.keep_checkpoints, config.checkpoint_every
            )
            opened.enter_context(closing(checkpoints))
            run = Run(config, workdir, program, data, checkpoints, hooks, shard_index, num_shards)
            evaluators = OpenEvaluators(())
            if config.evaluators:
                with start_up.phase("evaluators"):
                    evaluators = opened.enter_context(open_evaluators(read_evaluators(config), run))

            state, frozen = restore_or_initialize(run, start_up)

            is_done = run.start >= config.steps
            if not is_done:
                with start_up.phase("tracing"):
                    lowered = program.trace().lower()
                with start_up.phase("compiling"):
                    step = lowered.compile()
                say(f"{memory(step)}\n{start_up}")
            if jax.process_index() == 0:
                (workdir / "config.json").write_text(f"{as_json(config)}\n", encoding="utf-8")
                (workdir / COMMAND_FILE).write_text(f"{cli.command_line()}\n", encoding="utf-8")
                pins.write()
                start_up.write(workdir)
            if not is_done:
                rename_former_model(run)
                state = _take_steps(run, evaluators, step, state, frozen)

        model_directory = export_directory(run)
        if is_done and (model_directory is None or model_directory.exists()):
            say(f"nothing to do: {workdir} is at step {run.start} of {config.steps}")
        elif model_directory is not None:
            state, best = restore_best(run, state) if config.keep_best else (state, None)
            export(run, model_directory, state.params, frozen, best)
    return model_directory


def _take_steps(
    run: Run, evaluators: OpenEvaluators, step: Any, state: TrainState, frozen: Any
) -> TrainState:
    """Takes the remaining steps; returns the state after the last one."""
    steps = run.config.steps
    event = None
    with ExitStack() as training:
        for hook in run.hooks:
            training.enter_context(hook.training(run))
        for number in range(run.start + 1, steps + 1):
            for hook in run.hooks:
                hook.before_step(number)
            asked = time.monotonic()
            try:
                batch = next(run.data.batches)
            except UserError as error:
                raise Halted(str(error), event) from error
            arrived = time.monotonic()

            on_devices = Batch(**shard_batch(vars(batch), run.program.mesh))
            state, metrics = step(state, frozen, on_devices)
            is_last = number == steps
            event = StepEvent(
                number, state, frozen, batch, metrics, asked, arrived, is_last, ends=is_last
            )
            for hook in run.hooks:
                hook.step_started(event)

            evaluators.run(run, event)

            for hook in run.hooks:
                hook.after_step(event)
            if event.ends:
                break
    return state
