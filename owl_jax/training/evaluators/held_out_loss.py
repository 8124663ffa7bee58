"""The loss on held-out data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from owl_jax.data.batch import Batch
from owl_jax.data.drops import DropLog
from owl_jax.data.mixture import records_of_an_epoch
from owl_jax.errors import UserError, shown
from owl_jax.files import write_whole
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.parallel.agreement import raise_together
from owl_jax.parallel.sharding import batch_sharding, shard_batch
from owl_jax.training.evaluators.evaluator import Evaluate, Evaluator, results_file
from owl_jax.training.evaluators.examples import examples_of, finite
from owl_jax.training.objectives.next_token import losses_by_token
from owl_jax.training.partition import merge
from owl_jax.training.run import Run, StepEvent
from owl_jax.training.start_up import say

# training.data imports training.config, which imports the interface of evaluators.
if TYPE_CHECKING:
    from owl_jax.training.data import TrainingData

# A packed sequence hardly ever holds more records than this. So a source is large enough if it has
# more than this many records per requested sequence.
_MAX_RECORDS_PER_SEQUENCE = 64


@dataclass(frozen=True)
class HeldOutLoss(Evaluator):
    """Mean cross entropy, in nats per token, of the supervised tokens of held-out sequences.

    The data are read, tokenised and packed as `config.data` says, without augmentation, and are the
    same each time. The model runs as in training, but without dropout. The metrics are `loss` and
    `supervised_tokens`, the number of supervised tokens. WORKDIR/evaluators/NAME.json has examples.

    source: a path or a CustomSource as in `config.data.mixture`, or a whole mixture:
      ((source, weight), ...).
    sequences: the number of packed sequences.
    every: the interval in steps; the last step is always included.
    name: the prefix of the metrics.
    examples: the number of conversations that the report shows with tokens coloured by loss.
    """

    source: Any
    sequences: int = 256
    every: int = 500
    name: str = "heldout"
    examples: int = 6

    def check(self, config: ConfigDict) -> None:
        """Raises UserError for an invalid number or a malformed source."""
        for key, least in (("sequences", 1), ("examples", 0)):
            value = getattr(self, key)
            if type(value) is not int or value < least:
                raise UserError(f"{key}={shown(value)}: expected a whole number >= {least}")
        from owl_jax.training.config import read_mixture

        try:
            if not read_mixture(self._data_config(config)):
                raise UserError("source is empty; name a source, such as a path")
        except UserError as error:
            raise UserError(str(error).replace("config.data.mixture", "source")) from None

    @contextmanager
    def open(self, run: Run) -> Iterator[Evaluate]:
        """Opens the source and compiles the program. Raises UserError."""
        from owl_jax.training.data import open_data

        config = self._data_config(run.config)
        skipped = results_file(run.workdir, f"{self.name}-skipped").with_suffix(".jsonl")
        if run.num_shards > 1:
            skipped = skipped.with_stem(f"{skipped.stem}-{run.shard_index}-of-{run.num_shards}")
        drops = DropLog(config.data.max_dropped, skipped)
        shards = run.shard_index, run.num_shards
        data = open_data(config, run.program.model, run.workdir, *shards, drops)
        with closing(data):
            self._check_size(config, data)
            evaluation = _Evaluation(self, run, data, config.batch_size)
            yield evaluation

    def _data_config(self, config: ConfigDict) -> ConfigDict:
        """The training config, but with this source as data and one micro-batch as its batch."""
        is_mixture = isinstance(self.source, tuple | list) and all(
            isinstance(entry, tuple | list) for entry in self.source
        )
        data_config = config.copy_and_resolve_references()
        with data_config.unlocked(), data_config.ignore_type():
            data_config.data.mixture = tuple(self.source) if is_mixture else ((self.source, 1.0),)
            data_config.data.augmentation = "none"
            data_config.batch_size //= data_config.gradient_accumulation_steps
            data_config.gradient_accumulation_steps = 1
        return data_config

    def _check_size(self, config: ConfigDict, data: TrainingData) -> None:
        """Raises UserError if an epoch of the source has fewer sequences than requested."""
        from owl_jax.training.data import steps_of_epochs

        records = records_of_an_epoch(data.sources)
        if records > _MAX_RECORDS_PER_SEQUENCE * self.sequences:
            return
        with config.unlocked():
            config.batch_size, batch_size, config.epochs = 1, config.batch_size, 1.0
            found = min(steps_of_epochs(config, data), records)
            config.batch_size = batch_size
        if found < self.sequences:
            raise UserError(
                f"sequences={self.sequences}, but the {records:,} records of the source fill only "
                f"about {found}; ask for at most that many, or give more data"
            )


@cache  # evaluators whose batches are alike have one program
def _jitted_losses(model: OwlConfig, compute: Compute, mesh: Mesh) -> Any:
    def losses(trainable: Any, frozen: Any, batch: Batch) -> tuple[jax.Array, ...]:
        """The summed loss of supervised tokens, their number, and the loss of each."""
        found = losses_by_token(model, compute, merge(trainable, frozen), batch)
        return jnp.sum(found), jnp.sum(batch.loss_mask != 0), found

    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(losses, out_shardings=(replicated, replicated, batch_sharding(mesh)))


class _Evaluation:
    """The compiled program, and its data."""

    def __init__(
        self, settings: HeldOutLoss, run: Run, data: TrainingData, batch_size: int
    ) -> None:
        self._settings, self._run, self._data = settings, run, data
        self._batch_size = batch_size
        # Divide the sequences evenly: a process that needs more than its share may run out of
        # data and start its shard again.
        quotient, rest = divmod(settings.sequences, run.num_shards)
        self._own_sequences = quotient + (run.shard_index < rest)
        self._start = data.batches.get_state()
        self._has_summary = False
        program = run.program
        with program.active():
            self._losses = (
                _jitted_losses(program.model, program.compute, program.mesh)
                .trace(
                    program.state().params,
                    program.frozen(),
                    jax.tree.map(
                        lambda leaf: leaf.update(shape=(batch_size, *leaf.shape[1:])),
                        program.batch(),
                    ),
                )
                .lower()
                .compile()
            )

    def __call__(self, event: StepEvent) -> Mapping[str, float]:
        """The metrics after a step. Raises UserError, on all processes, if reading fails."""
        settings = self._settings
        total, tokens = 0.0, 0
        examples: list[dict[str, Any]] = []
        data, left = self._data, self._own_sequences
        data.batches.set_state(self._start)
        for _ in range(math.ceil(settings.sequences / self._batch_size)):
            batch = self._next_batch(left)
            left -= self._batch_size // self._run.num_shards
            summed, counted, losses = self._losses(event.state.params, event.frozen, batch)
            if jax.process_index() == 0 and len(examples) < settings.examples:
                missing = settings.examples - len(examples)
                examples += examples_of(batch, losses, data.shape, data.tokenizer, missing)
            total, tokens = total + float(summed), tokens + int(counted)
        if not tokens:
            raise UserError(f"none of the {settings.sequences} sequences has a supervised token")
        metrics = {"loss": total / tokens, "supervised_tokens": tokens}
        if jax.process_index() == 0:
            file = results_file(self._run.workdir, settings.name)
            report = {
                "version": 1,
                "step": event.number,
                "loss": finite(metrics["loss"]),
                "supervised_tokens": tokens,
                "examples": examples,
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(report, allow_nan=False))
        if not self._has_summary:
            say(f"{settings.name}: {self._data.drops.summary()}")
            self._has_summary = True
        return metrics

    def _next_batch(self, count: int) -> Batch:
        """The next batch, with only the first `count` sequences of this process supervised."""
        error = None
        try:
            batch = next(self._data.batches)
        except UserError as failure:
            error = failure
        raise_together(error, "process {process} cannot read its shard of the data")
        batch.loss_mask[max(count, 0) :] = 0
        return Batch(**shard_batch(vars(batch), self._run.program.mesh))
