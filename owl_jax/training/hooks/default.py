"""The hooks of a run: the built-in ones, and those of its config."""

from __future__ import annotations

from ml_collections import ConfigDict

from owl_jax.training.extensions import read_hooks
from owl_jax.training.hooks.checkpoints import SaveCheckpoints
from owl_jax.training.hooks.hook import Hook
from owl_jax.training.hooks.metrics import LogMetrics
from owl_jax.training.hooks.preemption import Preemption
from owl_jax.training.hooks.profile import Profile
from owl_jax.training.hooks.run_lock import HoldWorkdir
from owl_jax.training.hooks.watchdog import WatchSteps


def make_hooks(config: ConfigDict) -> list[Hook]:
    """The hooks in the order in which the loop calls them. Raises UserError for a wrong one."""
    return [
        # First, so that the others know in the same step that the run ends. It is left last, and
        # tells of a save that has been waited for.
        Preemption(),
        LogMetrics(),
        Profile(*config.profile),
        WatchSteps(config.hang_report, config.hang_exit),
        *read_hooks(config),
        HoldWorkdir(),  # whether the workdir is still ours is asked right before a save
        SaveCheckpoints(),
    ]
