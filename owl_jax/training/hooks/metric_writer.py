"""Writes the metrics of a training run to metrics.jsonl, TensorBoard and the terminal.

metrics.jsonl has one object per logged step, also after a resume. The keys are `step`, `loss`,
`supervised_tokens`, `learning_rate/<recipe>`, `grad_norm`, the rates of throughput.py
(`tokens_per_second`, `examples_per_second`, `mfu` if the device's peak is known, ...), and
`<evaluator>/<metric>`; the writer accepts any other key. JSON has no non-finite numbers, so they
are written as null; TensorBoard and the printed line show the value.

Only process 0 writes; on the others every method returns at once.
"""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import jax
import numpy as np
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from owl_jax.errors import UserError, printable
from owl_jax.files import open_regular
from owl_jax.training.hooks.event_files import Event, EventsWriter, SessionLog, scalar

FILE_NAME = "metrics.jsonl"

_FLUSH_SECONDS = 30  # between flushes of TensorBoard events; each waits for the disk

# Only these, so that the bar fits into 80 columns.
_BAR = ("loss", "tokens_per_second")


class MetricWriter:
    """Writes the metrics of one run; a context manager that closes its files.

    Args:
      workdir: the directory of metrics.jsonl and of the TensorBoard events; made if missing.
      total_steps: the step at which the run ends, for the progress bar.
      start_step: the step the run resumes from, 0 for a new one. Later steps in the file are
        dropped, because the run will take them again.
      description: label of the bar and of each printed line.
    """

    def __init__(
        self,
        workdir: str | Path,
        total_steps: int,
        start_step: int = 0,
        description: str = "train",
    ) -> None:
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._total_steps = total_steps
        self._start_step = start_step
        self._start_time = time.monotonic()
        self._description = description = printable(description)

        self._workdir = path = Path(workdir)
        path.mkdir(parents=True, exist_ok=True)
        keep_until(path / FILE_NAME, start_step)
        self._file = (path / FILE_NAME).open("a", encoding="utf-8")
        # Not a SummaryWriter: its thread dies when the disk is full, and then the run hangs.
        # File names have a resolution of one second: without the suffix a quick resume would
        # overwrite the earlier events.
        self._events = EventsWriter(str(path / "events"), f".{start_step}")
        self._flushed = 0.0
        # Makes TensorBoard discard later steps of earlier files.
        self._add_event(step=start_step + 1, session_log=SessionLog(status=SessionLog.START))
        self._bar: Progress | None = None
        if sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=14),
                MofNCompleteColumn(),
                TextColumn("{task.fields[summary]}", markup=False),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            )
            self._task = self._bar.add_task(
                description, total=total_steps, completed=start_step, summary=""
            )
            self._bar.start()

    def write(
        self,
        step: int,
        metrics: Mapping[str, Any],
        evaluations: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Logs one step.

        Args:
          step: the number of steps taken.
          metrics: {name: scalar} from Python, NumPy or JAX; a JAX scalar waits for the device.
          evaluations: {"EVALUATOR/METRIC": number} of the evaluators that ran after the step. They
            go into the same line of the file, and each is printed.

        Raises:
          OSError: for example a full disk.
        """
        if not self._active:
            return
        numbers = {
            name: np.asarray(value).item() for name, value in {**metrics, **evaluations}.items()
        }
        line = {"step": int(step)} | {
            name: value if math.isfinite(value) else None for name, value in numbers.items()
        }
        with self._naming_the_workdir():
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
            for name, value in numbers.items():
                self._add_event(step=step, summary=scalar(name, value))
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._events.flush()
                self._flushed = time.monotonic()

        if evaluations:
            found = "  ".join(f"{name} {numbers[name]:.4f}" for name in evaluations)
            self.message(printable(f"{self._description} {step}/{self._total_steps}  {found}"))
        if not metrics:
            return
        if self._bar is not None:
            short = {name: numbers[name] for name in numbers if name in _BAR}
            self._bar.update(self._task, completed=step, summary=summarize(short))
        else:
            head = f"{self._description} {step}/{self._total_steps}"
            print(f"{head}  {summarize(numbers)}  ETA {self._remaining(step)}", flush=True)

    def message(self, text: str) -> None:
        """Prints a line above the progress bar, if there is one."""
        if self._active:
            print(text, flush=True)

    def close(self) -> None:
        """Ends the progress bar and closes the files."""
        if not self._active:
            return
        if self._bar is not None:
            self._bar.stop()
        with self._naming_the_workdir():
            self._file.close()
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OSError:
            if error is None:
                raise  # otherwise `error` propagates: usually the full disk caused it, too

    @contextmanager
    def _naming_the_workdir(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # errors of open files have no filename
            error.filename = error.filename or str(self._workdir)
            raise

    def _add_event(self, **fields: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), **fields))

    def _remaining(self, step: int) -> str:
        taken = step - self._start_step
        if taken < 1:
            return "-"
        elapsed = time.monotonic() - self._start_time
        seconds = round(elapsed / taken * (self._total_steps - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def keep_until(path: Path, last_step: int) -> None:
    """Drops lines after `last_step` and damaged lines from a metrics file.

    Prints the number of damaged lines, not counting a last line cut by a kill. The file is replaced
    atomically.
    """
    if not path.exists():
        return
    lines, damaged = read_lines(path)
    kept = [line for line, values in lines if values["step"] <= last_step]
    if damaged:
        print(f"{path}: {damaged} damaged lines are dropped", flush=True)
    text = b"".join(kept)
    if path.stat().st_size == len(text):
        return
    shorter = path.with_suffix(".tmp")
    shorter.write_bytes(text)
    shorter.replace(path)


def read_lines(path: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], int]:
    """The valid lines of a metrics file with their values, and the number of damaged lines.

    A valid line is a JSON object of numbers and nulls with a step. A last line without a newline,
    as a kill leaves it, does not count as damaged.

    Raises UserError if the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            *ended, _ = file.read().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); move it away") from None
    lines = [(line + b"\n", values) for line in ended if (values := _values(line)) is not None]
    return lines, len(ended) - len(lines)


def _values(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line.decode())
        if not isinstance(values, dict) or type(values.get("step")) is not int:
            return None
        numbers = [value for value in values.values() if value is not None]
        are_finite = all(type(value) in (int, float) and math.isfinite(value) for value in numbers)
    except (ValueError, RecursionError, OverflowError):
        return None
    return values if are_finite else None


def summarize(numbers: Mapping[str, float]) -> str:
    """The main metrics as one line of text."""
    parts = []
    if "loss" in numbers:
        parts.append(f"loss {numbers['loss']:.4f}")
    if "grad_norm" in numbers:
        parts.append(f"grad_norm {numbers['grad_norm']:.3g}")
    if "tokens_per_second" in numbers:
        parts.append(f"{numbers['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in numbers:
        parts.append(f"MFU {numbers['mfu']:.1%}")
    return "  ".join(parts)
