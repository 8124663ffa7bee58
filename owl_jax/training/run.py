"""What the loop tells hooks and evaluators: the run they are part of, and each step of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from ml_collections import ConfigDict

from owl_jax.errors import UserError

if TYPE_CHECKING:  # config files import hooks and evaluators, and what is below imports configs
    from owl_jax.checkpoint.manager import Checkpoints
    from owl_jax.data.batch import Batch
    from owl_jax.training.data import TrainingData
    from owl_jax.training.hooks.hook import Hook
    from owl_jax.training.state import TrainState
    from owl_jax.training.train_program import TrainingProgram


@dataclass
class Run:
    """A run whose data are open and whose program is made.

    shard_index, num_shards: which part of each batch this process reads.
    start: the step that the run goes on from, and meta: what its checkpoints must agree on. Both
      are known once the weights are there: to hooks, but not to evaluators that are being opened.
    """

    config: ConfigDict
    workdir: Path
    program: TrainingProgram
    data: TrainingData
    checkpoints: Checkpoints
    hooks: Sequence[Hook]
    shard_index: int
    num_shards: int
    start: int = 0
    meta: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def pause(self, counted: bool = False) -> Iterator[None]:
        """Around what takes long between two steps, such as a save; tells every hook.

        counted: whether its time belongs to the training's in rates such as tokens per second.
        """
        with ExitStack() as pauses:
            for hook in self.hooks:
                pauses.enter_context(hook.pause(counted))
            yield


@dataclass
class StepEvent:
    """A step that was taken.

    number: counted from 1 over the whole training.
    state: after the step. The next step overwrites it: use it at once, never keep it.
    frozen: the frozen parameters, as `TrainingProgram.arrange` gives them.
    batch: this process's sequences, on the host.
    metrics: what the step computed, on the device; to read a number waits for the step.
    asked, arrived: `time.monotonic()` when the loop asked for the batch, and when it was there.
    is_last: whether it is step `config.steps`.
    ends: whether the run ends with it. A hook may set it: the run is saved and ends.
    evaluations: "EVALUATOR/METRIC" to number, of the evaluators that ran after this step.
    """

    number: int
    state: TrainState
    frozen: Any
    batch: Batch
    metrics: dict[str, jax.Array]
    asked: float
    arrived: float
    is_last: bool
    ends: bool
    evaluations: dict[str, float] = field(default_factory=dict)


class Halted(UserError):
    """The data or an evaluator failed between two steps; what was trained is sound.

    last: the newest step that was taken, if this process has taken one.
    """

    def __init__(self, message: str, last: StepEvent | None) -> None:
        super().__init__(message)
        self.last = last
