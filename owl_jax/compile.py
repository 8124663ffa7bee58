"""Compiles a program for a TPU without having one; reports memory, FLOPs and collectives.

    python -m owl_jax.compile --config=stage2 --topology=v5e:8x8
    python -m owl_jax.compile --config=stage2 --topology=v5e:8x8 --quick
    python -m owl_jax.compile --config=stage1 --topology=v5e:2x4 --program=decode \\
        --config.batch_size=32 --config.mesh.fsdp=1 --config.mesh.tensor=-1

Needs no TPU, weights or data, only the TPU compiler: pip install 'owl_jax[tpu]'. Files that
the config names are not opened. The exit status is 1 if the program does not fit.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from owl_jax import cli
from owl_jax.aot import environment
from owl_jax.errors import UserError
from owl_jax.files import as_typed, beside, is_replaceable, write_whole

if TYPE_CHECKING:
    from owl_jax.aot.build_program import Program

CONFIG = cli.define_config_flag()
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "chip and shape of a slice: v5e:8x8, v6e:16x16, v5p:4x4x4", required=True
)
SLICES = flags.DEFINE_integer(
    "slices", 1, "number of slices, connected by the data-centre network", lower_bound=1
)
PROGRAM = flags.DEFINE_enum(
    "program", "train", ["train", "prefill", "insert", "decode"], "what to compile"
)
BATCH_PER_DEVICE = flags.DEFINE_integer(
    "batch_per_device",
    0,
    "sequences per device and micro-batch; devices along the mesh axis tensor share theirs; "
    "0: from config.batch_size",
    lower_bound=0,
)
QUICK = flags.DEFINE_bool("quick", False, "report only memory and collectives, no time estimate")
JSON = flags.DEFINE_string("json", None, "file to write the numbers to")
HLO = flags.DEFINE_string("hlo", None, "file to write the compiled program's text to")
DTYPE = flags.DEFINE_enum(
    "dtype", "bfloat16", ["bfloat16", "float32", "int8"], "dtype of weights in prefill, decode"
)
CACHE_DTYPE = flags.DEFINE_enum(
    "cache_dtype",
    "auto",
    ["auto", "int8"],
    "dtype of cached keys and values in prefill, insert, decode; auto: of the computation",
)
NEW_TOKENS = flags.DEFINE_integer(
    "new_tokens", 256, "slots for new tokens in a sequence, in prefill and decode", lower_bound=1
)
XLA_FLAGS = flags.DEFINE_bool(
    "xla_flags",
    True,
    "use the flags of parallel/xla_flags.py, as the launchers do; with --quick only those that "
    "change collectives",
)
XLA_OPTION = flags.DEFINE_multi_string(
    "xla_option", [], "NAME=VALUE of an additional flag: xla_tpu_scoped_vmem_limit_kib=65536"
)


def main(_: list[str]) -> None:
    """Compiles, prints a table, writes JSON. Raises UserError if the program does not fit."""
    # Imported here because they import JAX, which --help does not need.
    from owl_jax.aot.analyse import analyse
    from owl_jax.aot.build_program import build_program
    from owl_jax.aot.topology import open_topology
    from owl_jax.parallel.xla_flags import PARTITIONING, flags_for

    # For batches that do not fit, JAX warns of indices beyond 32 bits; the table says that anyway.
    warnings.filterwarnings("ignore", "Explicitly requested dtype int64")
    _check_flags()
    for file in (JSON, HLO):
        _check_writable(file)
    given = dict(_pair(text) for text in XLA_OPTION.value)
    topology = open_topology(TOPOLOGY.value, SLICES.value)
    options: dict[str, str] = {}
    if XLA_FLAGS.value:
        options = {
            flag.name: flag.value
            for flag in flags_for(topology.chip.name)
            if flag.group == PARTITIONING or not QUICK.value
        }
    options |= given
    program = build_program(
        CONFIG.value,
        topology,
        PROGRAM.value,
        BATCH_PER_DEVICE.value,
        DTYPE.value,
        NEW_TOKENS.value,
        CACHE_DTYPE.value,
    )
    report = analyse(program, topology, QUICK.value, options)
    cli.say(report)
    if JSON.value:
        _write(JSON, f"{json.dumps(report.to_dict(), indent=2)}\n")
    if HLO.value:
        _write(HLO, report.text)
    if not report.fits:
        raise UserError(
            f"does not fit: {report.memory.peak / 1e9:.2f} of {topology.chip.hbm_bytes / 1e9:.2f} "
            f"GB; {_remedy(program)}"
        )


def _check_flags() -> None:
    """Raises UserError for a flag that the program does not use."""
    if PROGRAM.value == "train":
        others = {"dtype": "--config.frozen_dtype", "new_tokens": "--config.data.sequence_length"}
        if flags.FLAGS["cache_dtype"].present:
            raise UserError("--program=train does not take --cache_dtype: training has no cache")
    else:
        others = dict.fromkeys(("config.frozen_dtype", "config.compute.dtype"), "--dtype")
    for name, taken in others.items():
        if name in flags.FLAGS and flags.FLAGS[name].present:
            raise UserError(f"--program={PROGRAM.value} does not take --{name}; give {taken}")


def _check_writable(file: flags.FlagHolder[str | None]) -> None:
    """Raises UserError for a file that could not be written after compiling. Leaves no new file."""
    if not file.value:
        return
    path = Path(as_typed(file.value))
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.exists() or is_replaceable(path):
            partial = beside(Path(os.path.realpath(path)))
            partial.open("xb").close()
            partial.unlink()
    except OSError as error:
        raise _cannot_be_written(file, error) from None


def _write(file: flags.FlagHolder[str | None], text: str) -> None:
    try:
        write_whole(Path(as_typed(file.value or "")), text)
    except OSError as error:
        raise _cannot_be_written(file, error) from None


def _cannot_be_written(file: flags.FlagHolder[str | None], error: OSError) -> UserError:
    return UserError(
        f"--{file.name}={file.value}: cannot be written ({error.strerror}); name a file in an "
        "existing directory"
    )


def _remedy(program: Program) -> str:
    """How to make a program smaller."""
    from owl_jax.parallel.sharding import num_batch_shards

    batch = "--batch_per_device" if BATCH_PER_DEVICE.value else "config.batch_size"
    if program.name == "train":
        steps = "config.gradient_accumulation_steps"
        fewer = f"lower {batch}" if BATCH_PER_DEVICE.value else f"raise {steps}"
        return f"{fewer}, save less with config.compute.remat, or take more chips"
    shards = num_batch_shards(program.mesh)
    if program.batch_size > shards and program.batch_size % shards:
        return f"make config.batch_size a multiple of {shards}, so that devices share it"
    smaller = "".join(
        f", give --{flag.name}=int8" for flag in (DTYPE, CACHE_DTYPE) if flag.value != "int8"
    )
    return f"lower {batch}, lower config.data.sequence_length{smaller}, or take more chips"


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UserError(f"--xla_option={text}: expected NAME=VALUE")
    return name, value


if __name__ == "__main__":
    environment.prepare()  # before cli.run, which reads the config and so imports JAX
    cli.run(main)
