"""Trains a model: python -m owl_jax.train --config=configs/stage2.py --workdir=DIR

Any key of the config can be overridden with --config.KEY=VALUE. Run the same command again to
resume from the newest checkpoint in the workdir.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from owl_jax import cli
from owl_jax.parallel.mesh import start_multihost

CONFIG = cli.define_config_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "directory for checkpoints and metrics")
MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "join the other hosts of this TPU pod or GPU cluster before training"
)
flags.mark_flag_as_required("workdir")


def main(_: list[str]) -> None:
    """Parses nothing itself: flags come in, training/loop.py does the work."""
    from owl_jax.training.loop import train  # imports JAX, which --help can do without

    if MULTIHOST.value:
        start_multihost()
    train(CONFIG.value, Path(WORKDIR.value))


if __name__ == "__main__":
    cli.run(main)
