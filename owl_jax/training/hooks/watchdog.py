"""Reports a hung run on stderr, with the stacks of all threads, and may end the process."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Self

import jax

from owl_jax.training.hooks.hook import Hook
from owl_jax.training.hooks.preemption import EXIT_STATUS
from owl_jax.training.run import Run, StepEvent


class WatchSteps(Hook):
    """Runs a `Watchdog` with `config.hang_report` and `config.hang_exit`."""

    def __init__(self, report_after: float, exit_after: float) -> None:
        self._settings = report_after, exit_after

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        """Starts the watchdog, and a thread that waits for each step: steps run asynchronously."""
        threads = ThreadPoolExecutor(1, thread_name_prefix="watched-step")
        with Watchdog(*self._settings, run.start) as watchdog:
            self._watchdog, self._threads = watchdog, threads
            try:
                yield
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def step_started(self, event: StepEvent) -> None:
        """Records when the step ends."""
        self._threads.submit(self._wait, event.number, event.metrics["loss"])

    def pause(self, counted: bool) -> AbstractContextManager[object]:
        """Keeps the watchdog from ending the process during slow work between steps."""
        return self._watchdog.patient()

    def _wait(self, number: int, result: jax.Array) -> None:
        result.block_until_ready()
        self._watchdog.step_ended(number)


class Watchdog:
    """Checks that steps keep finishing; a context manager around the loop.

    Args:
      report_after: seconds without a finished step before the first report on stderr; reports
        follow after twice this time, four times, and so on. 0: never.
      exit_after: seconds without a finished step before the process exits, with the status that
        makes a launcher restart it; 0: never. Otherwise a process that hangs in a collective never
        ends.
      start: the step that the run resumes from.
    """

    def __init__(self, report_after: float, exit_after: float, start: int) -> None:
        self._report_after, self._exit_after = report_after, exit_after
        self._step, self._since = start, time.monotonic()
        self._patient = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def step_ended(self, step: int) -> None:
        """Records that `step` has finished. May be called from any thread."""
        self._step, self._since = step, time.monotonic()

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Wraps slow work such as saving: the watchdog reports it, but does not exit."""
        self._patient = True
        yield
        self._patient, self._since = False, time.monotonic()

    def __enter__(self) -> Self:
        self._since = time.monotonic()
        if self._report_after or self._exit_after:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()

    def _watch(self) -> None:
        reported, due = self._since, self._report_after
        shortest = min(x for x in (self._report_after, self._exit_after) if x)
        while not self._done.wait(min(1.0, shortest / 4)):
            since = self._since
            waited = time.monotonic() - since
            if since != reported:
                reported, due = since, self._report_after
            if due and waited >= due:
                self._report(waited)
                due *= 2
            if self._exit_after and waited >= self._exit_after and not self._patient:
                self._report(waited)
                print(f"hung for {waited:.0f} s: exit status {EXIT_STATUS}", file=sys.stderr)
                sys.stderr.flush()
                os._exit(EXIT_STATUS)

    def _report(self, waited: float) -> None:
        print(
            f"no step has ended for {waited:.0f} s: process {jax.process_index()} of "
            f"{jax.process_count()}, after step {self._step}; its threads:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
