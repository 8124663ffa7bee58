"""The training loop, top to bottom: mesh, data, weights, step, checkpoints, export.

Weights start in this order: the newest checkpoint of the workdir; else, branch by branch, what
`config.init` names (a directory, or "fresh"). Frozen weights always come from `config.init`: they
are not in checkpoints, their fingerprint is.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from owl_jax.checkpoint.base import Base, check_base
from owl_jax.checkpoint.manager import Checkpoints, fingerprint
from owl_jax.checkpoint.model_directory import open_branches, save_model
from owl_jax.checkpoint.stored import place
from owl_jax.data.batch import Batch
from owl_jax.errors import UserError
from owl_jax.models.config import Compute, OwlConfig
from owl_jax.models.owl import init_params
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules, own_rows, param_shardings, shard_batch
from owl_jax.training import config as settings
from owl_jax.training.data import open_data, steps_of_epochs
from owl_jax.training.metrics import MetricWriter
from owl_jax.training.optimizer import learning_rates, make_optimizer
from owl_jax.training.partition import FROZEN, assign, merge, split, table
from owl_jax.training.state import TrainState, place_state
from owl_jax.training.step import make_step

Tree = dict[str, Any]

# What says how weights are drawn, not what they are for: runs that differ in it agree.
_OF_FRESH_WEIGHTS = ("config.model.vision.position_stddev", "config.model.abstractor.query_stddev")

_BASE = "frozen base"  # of a checkpoint's meta


def train(config: ConfigDict, workdir: Path) -> Path | None:
    """Trains, or resumes, what `config` describes; returns the exported model's directory.

    A run that is at its last step already is left as it is.

    Raises UserError for whatever the user can mend: missing weights or data, a checkpoint of
    another model, a full disk, a loss that stays non-finite.
    """
    settings.check_values(config)
    settings.check_directories(config)
    model, compute = settings.read_model(config), settings.read_compute(config)
    rules, recipes = settings.read_recipes(config)
    logical, mesh = LogicalRules(), make_mesh(**config.mesh)
    part, parts = own_rows(mesh)
    data = open_data(config, model, workdir, part, parts)
    if config.epochs:
        config.steps = steps_of_epochs(config, data)
        _say(f"config.epochs={config.epochs}: {config.steps} steps")

    # Weights are kept stacked by layer, however the step computes.
    boxed = jax.eval_shape(partial(init_params, model, Compute()), jax.random.key(config.seed))
    shapes, shardings = nn.meta.unbox(boxed), param_shardings(boxed, mesh, logical)
    labels = assign(shapes, rules, set(recipes))
    trained_labels, _ = split(labels, labels)
    optimizer = make_optimizer(recipes, trained_labels, config.steps, config.clip_norm or None)
    _say(table(shapes, labels, recipes))

    with (
        closing(data),
        closing(
            Checkpoints(workdir / "checkpoints", config.keep_checkpoints, config.checkpoint_every)
        ) as checkpoints,
    ):
        trainable, frozen = split(
            initialize(config, model, shapes, shardings, _dtypes(labels, config, recipes)), labels
        )
        state = place_state(trainable, optimizer, split(shardings, labels)[0], mesh)
        meta = _describe(model, frozen, config)
        start = checkpoints.latest() or 0
        if start:
            expected = {k: v for k, v in meta.items() if not (config.any_base and k == _BASE)}
            hints = {_BASE: ", or insist with --config.any_base=True"}
            position = data.batches if config.data.resume else None
            state, _ = checkpoints.restore(start, _abstract(state), position, expected, hints)
            _say(f"resumed from step {start} of {workdir}")
        if jax.process_index() == 0:
            text = config.to_json_best_effort(indent=2)
            (workdir / "config.json").write_text(f"{text}\n", encoding="utf-8")

        step = jax.jit(
            make_step(model, compute, optimizer, config.seed, config.accumulate), donate_argnums=0
        )
        with (
            jax.set_mesh(mesh),
            nn.logical_axis_rules(logical.flax_rules()),
            MetricWriter(workdir, config.steps, start, workdir.name) as writer,
        ):
            clock = _Clock(parts)
            for number in range(start + 1, config.steps + 1):
                try:
                    with clock.waiting_for_data():
                        rows = next(data.batches)
                except UserError:
                    # Nothing is lost: once the data are mended the run goes on from here.
                    if jax.process_count() == 1 and number > start + 1:
                        checkpoints.save(number - 1, state, data.batches, meta, force=True)
                    raise
                state, metrics = step(state, frozen, Batch(**shard_batch(vars(rows), mesh)))
                clock.count(metrics["supervised_tokens"], rows)
                if number % config.log_every == 0 or number in (start + 1, config.steps):
                    # A skipped step does not move the schedule.
                    taken = number - 1 - metrics["skipped"]
                    metrics |= learning_rates(recipes, config.steps, taken)
                    metrics["dropped"] = data.drops.reasons.total()
                    writer.write(number, metrics | clock.read())
                    _stop_if_diverged(metrics, config.max_skipped_steps, number)
                checkpoints.save(number, state, data.batches, meta, force=number == config.steps)

    target = None if config.export == "none" else workdir / "model"
    if start >= config.steps and (target is None or target.exists()):
        _say(f"nothing left to do: {workdir} is at step {start} of {config.steps}")
    elif target is not None:
        # An earlier end of this run, before config.steps was raised.
        shutil.rmtree(target, ignore_errors=True)
        params = merge(state.params, frozen)
        base = Base.of(config.init.llm, params["llm"]) if "lora" in params else None
        tokenizer = Path(settings.tokenizer_directory(config))
        save_model(target, model, params, config.export, tokenizer, base)
    return target


def initialize(
    config: ConfigDict, model: OwlConfig, shapes: Tree, shardings: Tree, dtypes: Tree
) -> Tree:
    """The whole parameter tree on the mesh, each branch from where `config.init` says."""
    fresh = [name for name, value in config.init.items() if value == settings.FRESH]
    params: Tree = {}
    if fresh:

        def make(key: jax.Array) -> Tree:
            made = nn.meta.unbox(init_params(model, Compute(), key))
            return {
                name: jax.tree.map(lambda x, d: x.astype(d), made[name], dtypes[name])
                for name in fresh
            }

        out = {name: shardings[name] for name in fresh}
        # This runs once; on CPU, optimizing it takes far longer than running it.
        fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        made = jax.jit(make, out_shardings=out, compiler_options=fast)
        params |= made(jax.random.key(config.seed))
    directories: dict[str, list[str]] = {}
    for name, value in config.init.items():
        if value != settings.FRESH:
            directories.setdefault(value, []).append(name)
    for directory, names in directories.items():
        opened = open_branches(Path(directory), names)
        if "llm" in names:
            _check_language(opened.config, model, directory)
        for name in names:
            _check_shapes(opened.params[name], shapes[name], f"{directory}: {name}")
            params[name] = jax.tree.map(place, opened.params[name], dtypes[name], shardings[name])
        opened.tell(Path(directory))
    if config.init.get("lora", settings.FRESH) != settings.FRESH:
        check_base(Path(config.init.lora), params["llm"], config.init.llm, config.any_base)
    return params


class _Clock:
    """Throughput between two reads; the first one contains the compilation of the step.

    data_wait is the share of the time in which the device had nothing to do because the batch was
    not there. Steps run while the loop goes on, so waiting counts from the end of the step before.

    parts: of the data, this process reads one.
    """

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._watch = ThreadPoolExecutor(1, thread_name_prefix="end-of-step")
        self._end: Future[float] | None = None  # of the step before
        self._reset()

    def _reset(self) -> None:
        self._tokens: list[jax.Array] = []
        self._conversations, self._used, self._positions = 0, 0, 0
        self._waited = 0.0
        self._start = time.monotonic()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        if self._end is not None and self._end.done():
            self._waited += time.monotonic() - max(start, self._end.result())

    def count(self, supervised_tokens: jax.Array, rows: Batch) -> None:
        """supervised_tokens: of the step, over all processes. rows: this process's, on the host."""
        self._end = self._watch.submit(_time_when_ready, supervised_tokens)
        self._tokens.append(supervised_tokens)
        self._conversations += int(rows.segment_ids.max(axis=1).sum())
        self._used += int(np.count_nonzero(rows.segment_ids))
        self._positions += rows.segment_ids.size

    def read(self) -> dict[str, float]:
        tokens = float(sum(jax.device_get(self._tokens)))  # waits for the device
        elapsed = time.monotonic() - self._start
        rates = {
            "tokens_per_second": tokens / elapsed,
            "examples_per_second": self._conversations * self._parts / elapsed,
            "row_fill": self._used / self._positions,
            "data_wait": self._waited / elapsed,
        }
        self._reset()
        return rates


def _time_when_ready(array: jax.Array) -> float:
    array.block_until_ready()
    return time.monotonic()


def _dtypes(labels: Tree, config: ConfigDict, recipes: Mapping[str, Any]) -> Tree:
    return jax.tree.map(
        lambda name: jnp.dtype(config.frozen_dtype if name == FROZEN else recipes[name].dtype),
        labels,
    )


def _describe(model: OwlConfig, frozen: Tree, config: ConfigDict) -> dict[str, Any]:
    """What a checkpoint must agree on: one entry a field, so that a message names the one field."""
    flat = flatten_dict({"config": {"model": model.to_dict()}}, sep=".")
    for name in _OF_FRESH_WEIGHTS:
        del flat[name]
    # As JSON gives it back: lists instead of tuples.
    described: dict[str, Any] = json.loads(json.dumps(flat))
    directories = ", ".join(sorted({config.init[name] for name in frozen})) or "nothing"
    described |= {_BASE: fingerprint(frozen) if frozen else "none", f"{_BASE} name": directories}
    return described


def _abstract(state: TrainState) -> TrainState:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def _check_shapes(loaded: Tree, expected: Tree, where: str) -> None:
    found = {jax.tree_util.keystr(p): x.shape for p, x in jax.tree.leaves_with_path(loaded)}
    wanted = {jax.tree_util.keystr(p): x.shape for p, x in jax.tree.leaves_with_path(expected)}
    differences = [
        f"{path}: {found.get(path, 'missing')} instead of {wanted.get(path, 'nothing')}"
        for path in sorted(found.keys() | wanted.keys())
        if found.get(path) != wanted.get(path)
    ]
    if differences:
        raise UserError(f"{where} does not fit config.model: {'; '.join(differences[:5])}")


def _check_language(found: OwlConfig, expected: OwlConfig, directory: str) -> None:
    """What the shapes of the weights do not tell, and the language model does not work without."""
    for field in ("architecture", "rope_theta", "rms_norm_eps", "layer_norm_eps"):
        theirs, ours = (getattr(config.llm, field, None) for config in (found, expected))
        if theirs != ours:
            raise UserError(
                f"{directory}: its {field} is {theirs}, config.model.llm.{field} is {ours}; give "
                f"--config.model.llm.{field}={theirs}"
            )


def _stop_if_diverged(metrics: Mapping[str, Any], limit: int, step: int) -> None:
    in_a_row = int(metrics["skipped_in_a_row"])
    if in_a_row >= limit:
        raise UserError(
            f"step {step}: the loss or gradient of the last {in_a_row} steps was not finite; all "
            "were skipped. Lower the learning rate, or look at the data of these steps"
        )


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
