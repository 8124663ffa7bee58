"""The training loop, top to bottom: mesh, data, weights, step, checkpoints, export.

Weights start in this order: the newest checkpoint of the workdir; else, branch by branch, what
`config.init` names (a directory, or "fresh"). Frozen weights always come from `config.init`: they
are not in checkpoints, their fingerprint is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from owl_jax.checkpoint.manager import Checkpoints, fingerprint
from owl_jax.checkpoint.model_directory import read_branches, save_model
from owl_jax.data.batch import Batch, RowShape
from owl_jax.data.pipeline import DropLog, Prepare, WeightedSource, make_batches
from owl_jax.data.sources import JsonLinesSource
from owl_jax.data.synthetic import SyntheticSource
from owl_jax.errors import UserError
from owl_jax.models.config import OwlConfig
from owl_jax.models.owl import init_params
from owl_jax.parallel.mesh import make_mesh
from owl_jax.parallel.sharding import LogicalRules, param_shardings, shard_batch
from owl_jax.processing.tokenizer import load_tokenizer
from owl_jax.training import config as settings
from owl_jax.training.metrics import MetricWriter
from owl_jax.training.optimizer import learning_rates, make_optimizer
from owl_jax.training.partition import FROZEN, assign, merge, split, table
from owl_jax.training.state import TrainState, new_state
from owl_jax.training.step import make_step

Tree = dict[str, Any]


def train(config: ConfigDict, workdir: Path) -> Path | None:
    """Trains, or resumes, what `config` describes; returns the exported model's directory.

    Raises UserError for whatever the user can mend: missing weights or data, a checkpoint of
    another model, a full disk, a loss that stays non-finite.
    """
    settings.check_directories(config)
    model, compute = settings.read_model(config), settings.read_compute(config)
    rules, recipes = settings.read_recipes(config)
    logical = LogicalRules()
    mesh = make_mesh(**config.mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(logical.flax_rules()):
        batches = open_data(config, model)

        boxed = jax.eval_shape(partial(init_params, model, compute), jax.random.key(config.seed))
        shardings = param_shardings(boxed, mesh, logical)
        shapes = nn.meta.unbox(boxed)
        labels = assign(shapes, rules, set(recipes))
        dtypes = _dtypes(labels, config, recipes)
        print(table(shapes, labels, recipes), flush=True)

        trainable, frozen = split(initialize(config, model, shapes, shardings, dtypes), labels)
        optimizer = make_optimizer(
            recipes, split(labels, labels)[0], config.steps, config.clip_norm or None
        )
        state = _shard_state(trainable, optimizer, split(shardings, labels)[0], mesh)
        meta = {"model": model.to_dict(), "base": fingerprint(frozen) if frozen else "none"}
        checkpoints = Checkpoints(
            workdir / "checkpoints", config.keep_checkpoints, config.checkpoint_every
        )
        start = checkpoints.latest() or 0
        if start:
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
            )
            state, _ = checkpoints.restore(start, abstract, batches, meta)
            print(f"resumed from step {start} of {workdir}", flush=True)
        else:
            workdir.mkdir(parents=True, exist_ok=True)
            (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")

        step = jax.jit(
            make_step(model, compute, optimizer, config.seed, config.accumulate), donate_argnums=0
        )
        clock = _Clock()
        try:
            with MetricWriter(workdir, config.steps, start, workdir.name) as writer:
                for number in range(start + 1, config.steps + 1):
                    batch = Batch(**shard_batch(vars(next(batches)), mesh))
                    state, metrics = step(state, frozen, batch)
                    clock.count(metrics["supervised_tokens"], config.batch_size)
                    if number % config.log_every == 0 or number in (start + 1, config.steps):
                        metrics |= learning_rates(recipes, config.steps, number - 1)
                        writer.write(number, metrics | clock.read())
                        _stop_if_diverged(metrics, config.max_skipped_steps, number)
                    checkpoints.save(number, state, batches, meta, force=number == config.steps)
        finally:
            checkpoints.close()
        if config.export == "none":
            return None
        params = merge(state.params, frozen)
        return _export(workdir / "model", model, params, config)


def open_data(config: ConfigDict, model: OwlConfig) -> Any:
    """The batch iterator of this process. Raises UserError for missing or unusable data."""
    processes = jax.process_count()
    if config.batch_size % (processes * config.accumulate):
        raise UserError(
            f"config.batch_size={config.batch_size} must be a multiple of {processes} processes "
            f"times config.accumulate={config.accumulate}"
        )
    data = config.data
    sources = [
        WeightedSource(JsonLinesSource(path, data.media_root or Path(path).parent), weight)
        for path, weight in data.mixture
    ]
    if data.synthetic:
        kinds = data.synthetic.to_dict()
        source = SyntheticSource(kinds, size=data.synthetic_size, seed=config.seed)
        sources.append(WeightedSource(source, float(sum(kinds.values()))))
    shape = RowShape(
        data.length,
        model.media_length,
        model.vision.image_size,
        data.image_slots,
        data.video_slots,
        data.frames,
    )
    return make_batches(
        sources,
        Prepare(load_tokenizer(config.tokenizer), shape),
        config.batch_size // processes,
        config.seed,
        DropLog(data.max_dropped),
        data.threads,
        jax.process_index(),
        processes,
    )


def initialize(
    config: ConfigDict, model: OwlConfig, shapes: Tree, shardings: Tree, dtypes: Tree
) -> Tree:
    """The whole parameter tree on the mesh, each branch from where `config.init` says."""
    fresh = [name for name, value in config.init.items() if value == settings.FRESH]
    params: Tree = {}
    if fresh:

        def make(key: jax.Array) -> Tree:
            made = nn.meta.unbox(init_params(model, settings.read_compute(config), key))
            return {
                name: jax.tree.map(lambda x, d: x.astype(d), made[name], dtypes[name])
                for name in fresh
            }

        out = {name: shardings[name] for name in fresh}
        params |= jax.jit(make, out_shardings=out)(jax.random.key(config.seed))
    directories: dict[str, list[str]] = {}
    for name, value in config.init.items():
        if value != settings.FRESH:
            directories.setdefault(value, []).append(name)
    for directory, names in directories.items():
        loaded = read_branches(Path(directory), names, jnp.float32)
        for name in names:
            _check_shapes(loaded[name], shapes[name], f"{directory}: {name}")
            params[name] = jax.tree.map(
                lambda x, d, s: jax.device_put(x.astype(d), s),
                loaded[name],
                dtypes[name],
                shardings[name],
            )
    return params


class _Clock:
    """Throughput between two reads."""

    def __init__(self) -> None:
        self._tokens: list[jax.Array] = []
        self._examples = 0
        self._start = time.monotonic()

    def count(self, tokens: jax.Array, examples: int) -> None:
        self._tokens.append(tokens)
        self._examples += examples

    def read(self) -> dict[str, float]:
        tokens = float(sum(jax.device_get(self._tokens)))  # waits for the device
        elapsed = time.monotonic() - self._start
        rates = {
            "tokens_per_second": tokens / elapsed,
            "examples_per_second": self._examples / elapsed,
        }
        self.__init__()  # type: ignore[misc]
        return rates


def _dtypes(labels: Tree, config: ConfigDict, recipes: Mapping[str, Any]) -> Tree:
    return jax.tree.map(
        lambda name: jnp.dtype(config.frozen_dtype if name == FROZEN else recipes[name].dtype),
        labels,
    )


def _shard_state(
    trainable: Tree, optimizer: optax.GradientTransformation, shardings: Tree, mesh: Mesh
) -> TrainState:
    """The first state; moments lie where their parameters lie."""
    replicated = NamedSharding(mesh, PartitionSpec())
    abstract = jax.eval_shape(optimizer.init, trainable)
    moments = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        abstract,
        shardings,
        transform_non_params=lambda _: replicated,
    )
    out = TrainState(replicated, shardings, moments, replicated, replicated)
    return jax.jit(partial(new_state, optimizer=optimizer), out_shardings=out)(trainable)


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


def _stop_if_diverged(metrics: Mapping[str, Any], limit: int, step: int) -> None:
    in_a_row = int(metrics["skipped_in_a_row"])
    if in_a_row >= limit:
        raise UserError(
            f"step {step}: the loss or gradient of the last {in_a_row} steps was not finite; all "
            "were skipped. Lower the learning rate, or look at the data of these steps"
        )


def _export(target: Path, model: OwlConfig, params: Tree, config: ConfigDict) -> Path:
    save_model(target, model, params, config.export, Path(config.tokenizer))
    return target
