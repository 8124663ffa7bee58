"""Flags of XLA and libtpu for each chip, with reasons and sources.

TPU flags go into the environment variable LIBTPU_INIT_ARGS and GPU flags into XLA_FLAGS before JAX
starts; libtpu and XLA read them once. The launchers (launch/) run

    LIBTPU_INIT_ARGS=$(python -m owl_jax.parallel.xla_flags --chip=v5e) python -m owl_jax.train ...

An unknown flag ends the program at its start, so each flag was tested: libtpu 0.0.42 and 0.0.52
compiled a small training step with the TPU flags for v4, v5e, v5p and v6e, and jaxlib 0.10.2 parsed
the GPU flags (2026-11-25).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from owl_jax import streams
from owl_jax.errors import UserError
from owl_jax.parallel.chips import name_of

TPUS = ("v4", "v5e", "v5p", "v6e")
CHIPS = (*TPUS, "gpu", "cpu")


@dataclass(frozen=True)
class Flag:
    """One flag with its value for a chip.

    Attributes:
      group: name of the flags with one purpose.
      why: effect and reason.
      source: a document or a measurement that supports the reason.
    """

    name: str
    value: str
    group: str
    why: str
    source: str

    def __str__(self) -> str:
        return f"--{self.name}={self.value}"


MAXTEXT = "MaxText, benchmarks/xla_flags_library.py and its model configs"

# The VMEM (memory beside the matrix units) that one operation may use. XLA's default, 16 MiB, is
# all that a v4 has; with more, a fusion uses larger tiles and waits less for HBM. This changes
# time, not what fits in HBM, and compilation takes several times as long.
# VMEM of a core: v4 16, v5p 64, v5e and v6e 128 MiB (jax/_src/pallas/mosaic/tpu_info.py).
SCOPED_VMEM_KIB = {
    "v5e": (
        "65536",
        "half the VMEM; stage 2's language model: MFU 0.475 -> 0.495, compiling 4x as long",
        "estimated from the program compiled for 8x8",
    ),
    "v5p": ("49152", "three quarters of the VMEM", "not measured; Levanter sets 50000"),
    "v6e": ("98304", "three quarters of the VMEM", MAXTEXT),
}

# Under fsdp every layer's weights are gathered before use. These flags split a gather into steps
# inside a concurrent matmul, which hides it. Only on v5e: libtpu 0.0.52 refuses to compile with
# them for v4, v5p and v6e, since they may give wrong results or hang; 0.0.42 compiles silently.
GATHER_FUSION = {
    "xla_enable_async_all_gather": "gathers run concurrently with other work",
    "xla_tpu_enable_async_collective_fusion": "fuses collectives with concurrent work",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "fuses gathers, too",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "spreads them over several steps",
    "xla_tpu_overlap_compute_collective_tc": "the matrix unit goes on during a collective",
}

# On slices of up to 32 chips, XLA splits gathers and their matmuls into loops of small steps
# ("windowed einsum"), unless their operands are smaller than this.
WHOLE_GATHERS = {
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": (
        "1000000",
        "gathers stay whole on small slices; stage 2 on v5e:4x8: 2.51 -> 0.96 s a step",
        f"estimated from the compiled program; {MAXTEXT} (DISABLE_COLLECTIVE_MATMUL)",
    ),
}
# The group of flags that change the collectives, not only their schedule.
PARTITIONING = "whole gathers"

# Between slices, over DCN, only gradients are summed. These flags overlap the sum with the rest of
# the backward pass. They have no effect on one slice.
SLICE_OVERLAP = {
    "xla_tpu_enable_data_parallel_all_reduce_opt": "sums of gradients between slices run early",
    "xla_tpu_data_parallel_opt_different_sized_ops": "even if the gradients differ in size",
}

# XLA starts a GPU's collectives early and waits for them late, so matmuls hide them; each iteration
# of the loop over layers prefetches the weights of the next.
GPU_OVERLAP = {
    "xla_gpu_enable_latency_hiding_scheduler": "orders collectives to run beside other work",
    "xla_gpu_enable_pipelined_all_gather": "a layer's weights are gathered one layer ahead",
    "xla_gpu_enable_pipelined_reduce_scatter": "a layer's gradients are scattered one layer behind",
}
GPU_SOURCES = "JAX, GPU performance tips; NVIDIA JAX-Toolbox, Tips for High-Performance LLMs"


def flags_for(chip: str) -> tuple[Flag, ...]:
    """The flags of a chip, group by group; a CPU has none.

    Args:
      chip: one of `CHIPS`.

    Raises:
      UserError: no such chip.
    """
    if chip not in CHIPS:
        raise UserError(f"unknown chip {chip!r}; expected one of {', '.join(CHIPS)}")
    flags: list[Flag] = []
    if chip in SCOPED_VMEM_KIB:
        kib, why, source = SCOPED_VMEM_KIB[chip]
        flags.append(Flag("xla_tpu_scoped_vmem_limit_kib", kib, "scoped VMEM", why, source))
    if chip == "v5e":
        flags += _switched_on(GATHER_FUSION, "gather fusion", MAXTEXT)
    if chip in TPUS:
        flags += [
            Flag(name, value, PARTITIONING, why, source)
            for name, (value, why, source) in WHOLE_GATHERS.items()
        ]
        flags += _switched_on(SLICE_OVERLAP, "slice overlap", MAXTEXT)
    if chip == "gpu":
        flags += _switched_on(GPU_OVERLAP, "GPU overlap", GPU_SOURCES)
    return tuple(flags)


def explain(chip: str) -> str:
    """A chip's flags with reasons and sources, one paragraph per group. Raises UserError."""
    flags = flags_for(chip)
    if not flags:
        return f"{chip}: XLA's own defaults"
    lines = []
    for group in dict.fromkeys(flag.group for flag in flags):
        own = [flag for flag in flags if flag.group == group]
        lines.append(f"{chip}, {group} ({'; '.join(dict.fromkeys(flag.source for flag in own))})")
        lines += [f"  {flag}  {flag.why}" for flag in own]
    return "\n".join(lines)


def in_use(device_kind: str) -> str:
    """The flags in this process's environment for a kind of device, for its log; "" on a CPU.

    device_kind: of a `jax.Device`.
    """
    chip = name_of(device_kind)
    known = {str(flag): flag for flag in flags_for(chip)}
    if not known:
        return ""
    variable = "LIBTPU_INIT_ARGS" if chip in TPUS else "XLA_FLAGS"
    given = os.environ.get(variable, "").split()
    lines = [f"{variable} on {device_kind}:" + ("" if given else " none")]
    lines += [f"  {flag}  {known[flag].why if flag in known else 'set by hand'}" for flag in given]
    set_names = {flag.partition("=")[0] for flag in given}
    missing = [str(flag) for flag in known.values() if f"--{flag.name}" not in set_names]
    if missing:
        lines.append(
            f"  not set: {' '.join(missing)} (python -m owl_jax.parallel.xla_flags --chip={chip} "
            "--explain gives the reasons)"
        )
    return "\n".join(lines)


def _switched_on(group: dict[str, str], name: str, source: str) -> list[Flag]:
    return [Flag(flag, "true", name, why, source) for flag, why in group.items()]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def main(arguments: Sequence[str]) -> None:
    """Prints a chip's flags in one line, for the environment variable."""
    parser = _Parser(prog="python -m owl_jax.parallel.xla_flags", description=main.__doc__)
    parser.add_argument("--chip", required=True, choices=CHIPS)
    parser.add_argument("--explain", action="store_true", help="a line for each flag, with reasons")
    given = parser.parse_args(arguments)
    print(explain(given.chip) if given.explain else " ".join(map(str, flags_for(given.chip))))


if __name__ == "__main__":
    streams.run(lambda: main(sys.argv[1:]))
