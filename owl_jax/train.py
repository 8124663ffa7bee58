"""Trains a model: python -m owl_jax.train --config=stage2 --workdir=DIR

Any key of the config can be overridden with --config.KEY=VALUE. Run the same command again to
resume from the newest checkpoint in the workdir. SIGTERM to any process saves and ends the run with
status 75. If one of several processes dies, the others end with 75 without saving. Ctrl-C saves and
ends with status 130; a second Ctrl-C ends at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from owl_jax import cli
from owl_jax.errors import UserError, one_line
from owl_jax.parallel.mesh import start_multihost

CONFIG = cli.define_config_flag()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "directory for checkpoints and metrics", required=True
)
MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "join the other hosts of this TPU pod or GPU cluster before training"
)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "host:port of process 0, for --multihost without a TPU pod, GKE, Slurm or MPI to provide it",
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "with --coordinator_address: the number of processes", lower_bound=1
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "with --coordinator_address: index of this process", lower_bound=0
)

# Substrings of the runtime errors raised when a peer process dies.
LOST = (
    "Gloo",
    "gloo",
    "NCCL",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "oordination service",
    "heartbeat",
    "barrier",
)


def main(_: list[str]) -> int | None:
    """Trains (training/loop.py), and writes the report. Returns the exit status."""
    # Imported here, since they import JAX, which --help does not need.
    import jax
    from jax.errors import JaxRuntimeError

    from owl_jax.malloc import keep_large_buffers
    from owl_jax.parallel.xla_flags import in_use
    from owl_jax.training.hooks.preemption import EXIT_STATUS, Interrupted, Preempted
    from owl_jax.training.loop import train
    from owl_jax.training.start_up import keep_compiled

    if "://" in WORKDIR.value:
        raise UserError(
            f"--workdir={WORKDIR.value}: expected a folder; mount the bucket as one, as the "
            "launchers' --bucket does (docs/launch)"
        )
    processes = (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if MULTIHOST.value:
        start_multihost(*processes)
    elif any(value is not None for value in processes):
        raise flags.Error(
            "--coordinator_address, --num_processes and --process_id need --multihost"
        )
    is_first = jax.process_index() == 0
    workdir = Path(WORKDIR.value)
    keep_compiled(workdir)
    if jax.default_backend() == "cpu":
        keep_large_buffers()
    if is_first and (text := in_use(jax.devices()[0].device_kind)):
        cli.say(text)
    try:
        model = train(CONFIG.value, workdir)
    except Preempted as end:
        if is_first:
            print(end, flush=True)
        return end.status
    except Interrupted as end:  # all processes end here, so cli.leave is not needed
        if is_first:
            print(f"error: {end}", file=sys.stderr, flush=True)
        return end.status
    except (JaxRuntimeError, ValueError, TimeoutError) as error:
        if jax.process_count() == 1 or not any(word in str(error) for word in LOST):
            raise
        cli.leave(
            f"{one_line(error)[:500].rstrip('.')}. Probably another process has died; the same "
            "command resumes from the newest checkpoint",
            EXIT_STATUS,
        )
    if is_first:
        # Imported here, since matplotlib takes half a second.
        from owl_jax.training.report import write_curves

        report = workdir / "report.html"
        write_curves(report, workdir)
        cli.say(f"curves: {report}" + (f"  model: {model}" if model else ""))
    return None


if __name__ == "__main__":
    cli.run(main)
