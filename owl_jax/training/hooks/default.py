"""The hooks of a run: the built-in ones, and those of its config."""

from __future__ import annotations

from ml_collections import ConfigDict

from owl_jax.training.extensions import read_hooks
from owl_jax.training.hooks.checkpoints import SaveCheckpoints
from owl_jax.training.hooks.hook import Hook
from owl_jax.training.hooks.keep_best import KeepBest
from owl_jax.training.hooks.metrics import LogMetrics
from owl_jax.training.hooks.preemption import Preemption
from owl_jax.training.hooks.profile import Profile
from owl_jax.training.hooks.run_lock import HoldWorkdir
from owl_jax.training.hooks.watchdog import WatchSteps


def make_hooks(config: ConfigDict) -> list[Hook]:
    """The hooks, in the order of their calls. Raises UserError for an invalid one."""
    best = config.keep_best
    return [
        # First, so that other hooks learn in the same step that the run ends. Its context exits
        # last, when the final save has finished.
        Preemption(),
        LogMetrics(),
        Profile(*config.profile),
        WatchSteps(config.hang_report, config.hang_exit),
        *read_hooks(config),
        HoldWorkdir(),  # checks right before a save that the workdir is still ours
        *([KeepBest(best)] if best else []),
        SaveCheckpoints(),
    ]
