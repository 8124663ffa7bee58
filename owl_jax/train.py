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
WORKDIR = flags.DEFINE_string(
    "workdir", None, "directory for checkpoints and metrics", required=True
)
MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "join the other hosts of this TPU pod or GPU cluster before training"
)


def main(_: list[str]) -> None:
    """Parses nothing itself: flags come in, training/loop.py does the work."""
    # Imported here, since they import JAX, which --help can do without.
    import jax

    from owl_jax.evaluation.report import write_curves
    from owl_jax.training.loop import train

    if MULTIHOST.value:
        start_multihost()
    workdir = Path(WORKDIR.value)
    model = train(CONFIG.value, workdir)
    if jax.process_index() == 0:
        report = workdir / "report.html"
        write_curves(report, workdir)
        print(f"curves: {report}" + (f"  model: {model}" if model else ""))


if __name__ == "__main__":
    cli.run(main)
