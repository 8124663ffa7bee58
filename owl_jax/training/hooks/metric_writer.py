"""Where the numbers of a training run go: a JSON Lines file, TensorBoard, and the person watching.

metrics.jsonl holds one object per logged step, each step once, also after a resume. The keys are
`step`, `loss`, `supervised_tokens`, `learning_rate/<recipe>`, `grad_norm`, the rates of
throughput.py (`tokens_per_second`, `examples_per_second`, `mfu` where the device's peak is known,
...), and `<evaluator>/<metric>`; the writer takes whatever it is given. A number that is not finite
is written as null, since JSON has no other word for it; TensorBoard and the printed line show what
it was.

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

_FLUSH_SECONDS = 30  # between what TensorBoard gets to see; each flush waits for the disk

# As much as 80 columns hold beside the bar; a printed line has room for more.
_BAR = ("loss", "tokens_per_second")


class MetricWriter:
    """Writes the metrics of one run; a context manager that closes its files.

    Args:
      workdir: the directory of metrics.jsonl and of the TensorBoard events; made if missing.
      total_steps: the step at which the run ends, for the progress bar.
      start_step: the step the run resumes from, 0 for a new one. What the file says about later
        steps is dropped, because they are about to be taken again.
      description: what stands before the bar and at the head of each line.
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
        # Not a SummaryWriter: its thread ends when the disk is full, and then the run waits for it.
        # File names have a resolution of one second: without the suffix a quick resume would
        # overwrite the events before it.
        self._events = EventsWriter(str(path / "events"), f".{start_step}")
        self._flushed = 0.0
        # TensorBoard forgets what earlier files say about later steps.
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
          metrics: names to scalars (Python, NumPy or JAX; reading the last waits for the device).
          evaluations: "EVALUATOR/METRIC" to numbers, for a step after which evaluators ran. They
            are in the same line of the file, and each is printed.

        Raises:
          OSError: the disk is full, for example.
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
        """Prints a line of text, above the progress bar if there is one."""
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
                raise  # or else a full disk, and `error` tells of it

    @contextmanager
    def _naming_the_workdir(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # of a file that is open, which it does not name
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
    """Drops the lines of a metrics file that come after `last_step`, and damaged ones.

    Damaged lines are counted on stdout, but for a last one that was cut by a kill. The file is
    replaced as a whole, so that a kill at any moment leaves the old one or the new one.
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
    """The whole lines of a metrics file with what they say, and how many others there are.

    A line is whole if it is a JSON object of numbers and nulls with a step. A last line without its
    end is what a kill leaves; it is not counted.

    Raises UserError where the file cannot be read.
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
        sound = all(type(value) in (int, float) and math.isfinite(value) for value in numbers)
    except (ValueError, RecursionError, OverflowError):
        return None
    return values if sound else None


def summarize(numbers: Mapping[str, float]) -> str:
    """The part of the metrics that a person wants on one line."""
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
