"""What the loop passes to hooks and evaluators: the run, and each of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from ml_collections import ConfigDict

from owl_jax.errors import UserError

if TYPE_CHECKING:  # circular: config files import hooks, and these modules import configs
    from owl_jax.checkpoint.manager import Checkpoints
    from owl_jax.data.batch import Batch
    from owl_jax.training.data import TrainingData
    from owl_jax.training.hooks.hook import Hook
    from owl_jax.training.state import TrainState
    from owl_jax.training.train_program import TrainingProgram


@dataclass
class Run:
    """A run with its data open and its program built.

    shard_index, num_shards: the shard of each batch that this process reads.
    start: the step that the run resumes from. meta: metadata that its checkpoints must match. Both
      are set when the weights are loaded: after evaluators open, before `Hook.training`.
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
        """Wraps slow work between two steps, such as a save; notifies every hook.

        counted: whether rates such as tokens per second include this time.
        """
        with ExitStack() as pauses:
            for hook in self.hooks:
                pauses.enter_context(hook.pause(counted))
            yield


@dataclass
class StepEvent:
    """One training step.

    number: counted from 1 over the whole run.
    state: after the step. Its buffers are donated to the next step: do not keep it.
    frozen: the frozen parameters, as `TrainingProgram.arrange` returns them.
    batch: this process's sequences, on the host.
    metrics: on the device; reading a number waits for the step.
    asked, arrived: `time.monotonic()` when the loop requested and received the batch.
    is_last: whether this is step `config.steps`.
    ends: whether the run ends after this step. A hook may set it to save and end the run.
    evaluations: {"EVALUATOR/METRIC": number} of the evaluators that ran after this step.
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
    """The data or an evaluator failed between two steps; the training state is valid.

    last: the newest step, if this process has taken one.
    """

    def __init__(self, message: str, last: StepEvent | None) -> None:
        super().__init__(message)
        self.last = last
