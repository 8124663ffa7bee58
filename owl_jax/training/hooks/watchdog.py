"""Tells when a run hangs, and where: the stacks of all threads, on stderr."""

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
    """Has a Watchdog look at the steps of a run, by `config.hang_report` and `config.hang_exit`."""

    def __init__(self, report_after: float, exit_after: float) -> None:
        self._settings = report_after, exit_after

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        """Steps end while the loop goes on: a thread waits for each."""
        threads = ThreadPoolExecutor(1, thread_name_prefix="watched-step")
        with Watchdog(*self._settings, run.start) as watchdog:
            self._watchdog, self._threads = watchdog, threads
            try:
                yield
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def step_started(self, event: StepEvent) -> None:
        """Notes when it ends."""
        self._threads.submit(self._wait, event.number, event.metrics["loss"])

    def pause(self, counted: bool) -> AbstractContextManager[object]:
        """What is no step may take its time."""
        return self._watchdog.patient()

    def _wait(self, number: int, result: jax.Array) -> None:
        result.block_until_ready()
        self._watchdog.step_ended(number)


class Watchdog:
    """Watches that steps end; a context manager around the loop.

    Args:
      report_after: seconds without the end of a step after which stderr gets a report, and again
        after twice the time, four times ...; 0: never.
      exit_after: seconds after which the process is ended with the status that makes a launcher
        start it again; 0: never. What hangs in a collective does not end otherwise.
      start: the step that the run goes on from.
    """

    def __init__(self, report_after: float, exit_after: float, start: int) -> None:
        self._report_after, self._exit_after = report_after, exit_after
        self._step, self._since = start, time.monotonic()
        self._patient = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def step_ended(self, step: int) -> None:
        """Called from any thread."""
        self._step, self._since = step, time.monotonic()

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Around what may take its time, such as saving: it is reported, but ends nothing."""
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
