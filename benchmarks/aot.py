"""Compiles the full-size programs for TPUs, without a TPU, and prints their costs.

    python benchmarks/aot.py                       # quick: memory, work and bytes; ten minutes
    python benchmarks/aot.py --full                # also estimated time; an hour or two
    python benchmarks/aot.py --full --only=stage2-v5e-8x8,stage1-v5e-8x8

Each row is one run of `python -m owl_jax.compile`, printed with its command. This needs the TPU
compiler, which `make aot` installs. Compare estimates only with each other. The column MaxText is
the ratio of the estimated tokens/s/chip to MaxText's on the same chips, with the same batch and
remat: text-only LLaMA-2-7B, full fine-tuning, compiled by its train_compile with our XLA flags and
measured by the same estimator. A frozen base alone gives 1.46 (docs/benchmarks.md).
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from owl_jax import cli
from owl_jax.errors import UserError

_FULL = flags.DEFINE_bool("full", False, "with estimated time")
_ONLY = flags.DEFINE_list("only", [], "names of rows; all by default")
_JSON = flags.DEFINE_string("json", None, "file for all numbers, by row")

CONFIGS = Path(__file__).parents[1] / "configs"

_ONE_PICTURE = ("--config.data.image_slots=1", "--config.gradient_accumulation_steps=1")
_DECODING = (
    "--program=decode",
    "--config.batch_size=32",
    "--config.mesh.fsdp=1",
    "--config.mesh.tensor=-1",
)


@dataclass(frozen=True)
class Row:
    """One program. flags: of the command. mfu, goal: lower bounds of MFU. work: upper bound of
    hardware over model FLOPs. maxtext: tokens/s/chip of MaxText with the same batch, chips and
    remat."""

    name: str
    config: str
    flags: tuple[str, ...]
    mfu: float | None = None
    goal: float | None = None
    work: float | None = None
    maxtext: float | None = None


def slice_of(topology: str, batch: int, remat: str = "minimal", data: int = 1) -> tuple[str, ...]:
    """The flags of a training step on one slice."""
    return (
        f"--topology={topology}",
        f"--batch_per_device={batch}",
        f"--config.compute.remat={remat}",
        f"--config.mesh.data={data}",
    )


_V5E_64, _V5E_64_FULL = slice_of("v5e:8x8", 2), slice_of("v5e:8x8", 4, "full")
_V5E_256, _V5P_64 = slice_of("v5e:16x16", 2, data=4), slice_of("v5p:4x4x4", 8, data=4)

ROWS = (
    Row("stage2-v5e-8x8", "stage2.py", _V5E_64, mfu=0.50, goal=0.56, work=1.15, maxtext=2_699),
    Row("stage1-v5e-8x8", "stage1.py", _V5E_64, mfu=0.47, goal=0.54, work=1.20, maxtext=2_699),
    Row("stage2-v5e-8x8-full", "stage2.py", _V5E_64_FULL, maxtext=2_539),
    Row("stage1-v5e-8x8-full", "stage1.py", _V5E_64_FULL, maxtext=2_539),
    Row("stage2-v5e-16x16", "stage2.py", _V5E_256, mfu=0.52, goal=0.58, work=1.15, maxtext=2_992),
    Row("full-v5e-16x16", "stage2_full.py", _V5E_256, mfu=0.54, goal=0.58, maxtext=2_992),
    Row("stage2-v5p-4x4x4", "stage2.py", _V5P_64, mfu=0.48, goal=0.58, work=1.10),
    # With the XLA flags of a v6e, whose VMEM is large, compilation takes more than 27 minutes.
    Row("stage2-v6e-8x8", "stage2.py", (*slice_of("v6e:8x8", 4), "--noxla_flags"), work=1.15),
    Row("stage2-2-slices", "stage2.py", (*slice_of("v5e:16x16", 2, data=2), "--slices=2")),
    Row("stage1-2-slices", "stage1.py", (*slice_of("v5e:16x16", 2, data=2), "--slices=2")),
    Row(
        "stage2-int8-v5e-1x1",
        "stage2.py",
        (*slice_of("v5e:1x1", 2, "full"), "--config.frozen_dtype=int8"),
    ),
    Row("decode-v5e-2x4", "stage1.py", ("--topology=v5e:2x4", *_DECODING)),
    Row("decode-int8-v5e-2x4", "stage1.py", ("--topology=v5e:2x4", *_DECODING, "--dtype=int8")),
)


def main(argv: list[str]) -> None:
    """Prints a line for each program; `!` marks a missed bound, `~` a missed goal."""
    del argv
    if importlib.util.find_spec("libtpu") is None:
        print("left out: the TPU compiler is not installed; pip install --editable '.[tpu]'")
        return
    if unknown := set(_ONLY.value) - {row.name for row in ROWS}:
        raise UserError(
            f"no rows {', '.join(sorted(unknown))}; the rows are {', '.join(r.name for r in ROWS)}"
        )
    print(
        f"{'':<22}{'GB':>7}{'of':>7}{'work':>7}{'gathered':>10}{'summed':>8}{'scattered':>10}"
        f"{'DCN':>7}{'MFU':>7}{'tok/s/chip':>12}{'MaxText':>9}{'compiled':>10}"
    )
    reports = {}
    for row in ROWS:
        if not _ONLY.value or row.name in _ONLY.value:
            command = [f"--config={CONFIGS / row.config}", *row.flags, *_ONE_PICTURE]
            command += [] if _FULL.value else ["--quick"]
            reports[row.name] = report = run(command)
            print(line(row, report), flush=True)
            print(f"    {shlex.join(command)}", flush=True)
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(reports, indent=2), encoding="utf-8")


def run(command: list[str]) -> dict[str, Any]:
    """The JSON report, even of a program that does not fit; {"error": ...} if there is none."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "report.json"
        done = subprocess.run(
            [sys.executable, "-m", "owl_jax.compile", *command, f"--json={written}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if not written.exists():
            return {"error": done.stderr.strip()}
        report: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
        return report


def line(row: Row, report: dict[str, Any]) -> str:
    """A row of the table."""
    if "error" in report:
        return f"{row.name:<22}{report['error']}"
    memory = report["hbm_bytes_per_device"]
    cells = [
        cell(memory["peak"] / 1e9, 7, ".2f", not report["fits"]),
        cell(memory["limit"] / 1e9, 7, ".2f"),
    ]
    ratio = report["hardware_over_model_flops"]
    cells.append(cell(ratio, 7, ".2f", row.work is not None and (ratio or 0) > row.work))
    kinds = report["collectives"]
    for kind, width in (("all-gather", 10), ("all-reduce", 8), ("reduce-scatter", 10)):
        cells.append(cell(kinds.get(kind, {"bytes": 0})["bytes"] / 1e9, width, ".2f"))
    cells.append(cell(sum(kind["dcn_bytes"] for kind in kinds.values()) / 1e9, 7, ".2f"))
    estimated = report["estimated"] or {}
    mfu, speed = estimated.get("mfu"), estimated.get("tokens_per_second_per_chip")
    cells.append(cell(mfu, 7, ".3f", (mfu or 1) < (row.mfu or 0), (mfu or 1) < (row.goal or 0)))
    cells.append(cell(speed, 12, ",.0f"))
    cells.append(cell(speed / row.maxtext if speed and row.maxtext else None, 9, ".2f"))
    cells.append(cell(report["compile_seconds"], 10, ".0f"))
    needed = report["weight_and_held_bytes_per_device"]
    if needed and report["hbm_bytes_read_per_device"]:
        read = report["hbm_bytes_read_per_device"] / needed
        cells.append(f"   reads {read:.2f} x weights and held cache{'!' if read > 1.1 else ''}")
    return f"{row.name:<22}{''.join(cells)}"


def cell(
    value: float | None, width: int, form: str, misses: bool = False, nearly: bool = False
) -> str:
    text = "-" if value is None else f"{value:{form}}" + ("!" if misses else "~" if nearly else "")
    return f"{text:>{width}}"


if __name__ == "__main__":
    cli.run(main)
