"""On SIGTERM or Ctrl-C, saves the run at the end of a step and ends it.

SIGTERM is a preemption: the run ends with status 75, and launchers restart it. Ctrl-C (SIGINT) also
saves, but ends with status 130, after which launchers do not restart. A second Ctrl-C ends the
process at once, even while it waits outside Python.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather, reached_preemption_sync_point

from owl_jax.errors import Ended
from owl_jax.training.hooks.hook import Hook
from owl_jax.training.run import Run, StepEvent

# EX_TEMPFAIL in sysexits.h: launchers restart a run that exits with it (launch/common.sh, AGAIN).
EXIT_STATUS = 75

INTERRUPTED_STATUS = 130  # 128 + SIGINT, the status that shells report for Ctrl-C

_NOTICE = "interrupted: the run saves at the end of this step; Ctrl-C again ends it at once"
_SHOW_CURSOR = "\x1b[?25h"  # the progress bar hides it


class Preempted(Ended):
    """SIGTERM ended the run before its last step; everything is saved."""

    status = EXIT_STATUS


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended the run on all its processes; everything is saved."""

    status = INTERRUPTED_STATUS


class Preemption(Hook):
    """Decides at which step the run saves and ends; a context manager around the run.

    A single process checks its own signals. Several processes ask JAX's coordination service, which
    forwards a signal from any process to all of them and picks a step that none has passed yet. The
    service handles SIGTERM only, so an interrupted process sends itself a SIGTERM.

    A second SIGTERM, for example from the system after the launcher's, changes nothing. If SIGINT
    was ignored before (nohup, a shell's background job), it stays ignored; if the program has its
    own handler, that stays in place.
    """

    def __init__(self) -> None:
        self._signalled = self._interrupted = self._training = False
        self._saved = ""  # what is saved, once training has ended
        self._ending = False
        self._step = 0  # the newest step
        self._former: dict[int, Any] = {}
        self._listener: _Listener | None = None
        # Interrupting a cell twice must not end the notebook.
        self._is_interactive = hasattr(sys, "ps1")

    def __enter__(self) -> Self:
        # Python handles signals in the main thread only.
        if threading.current_thread() is not threading.main_thread():
            return self
        if not jax.distributed.is_initialized():
            self._former[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._notice)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._former[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
            if not self._is_interactive:
                self._listener = _Listener.start(self._on_sigint)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._listener:
            self._listener.close()
        for number, former in self._former.items():
            if former is not None:
                signal.signal(number, former)

    def holding(self, workdir: Path) -> AbstractContextManager[object]:
        """Handles signals during the whole run."""
        return self

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        """Ends the run after the agreed step is saved."""
        self.training_begins()
        yield
        saved = f"step {self._step} of {run.config.steps} is saved in {run.workdir}"
        if self._ending:
            self.end(saved)
        self.training_ends(saved)

    def after_step(self, event: StepEvent) -> None:
        """Ends the run with this step, if it is the agreed one."""
        reached = self.reached(event.number)
        self._ending, self._step = reached and not event.is_last, event.number
        event.ends = event.ends or self._ending

    def training_begins(self) -> None:
        """From now on a signal ends the run after a step; an earlier one ends it at once."""
        self._training = True

    def training_ends(self, saved: str) -> None:
        """All steps are saved: from now on Ctrl-C ends the run at once.

        Raises KeyboardInterrupt with `saved` in its message if Ctrl-C came during the last step.
        """
        self._training, self._saved = False, saved
        if self._interrupted and not jax.distributed.is_initialized():
            raise KeyboardInterrupt(f"interrupted: {saved}")

    def reached(self, step: int) -> bool:
        """Whether the run ends after `step`; every process calls this after each step."""
        if jax.distributed.is_initialized():
            return reached_preemption_sync_point(step)
        return self._signalled or self._interrupted

    def end(self, saved: str) -> NoReturn:
        """Ends the run, in the same way on every process.

        Raises Preempted, or Interrupted if any process was interrupted.

        saved: says in the message what is saved and where.
        """
        interrupted = self._interrupted
        if jax.process_count() > 1:
            interrupted = bool(process_allgather(np.array([interrupted])).any())
        if interrupted:
            raise Interrupted(f"interrupted: {saved}; the same command resumes from there")
        raise Preempted(f"preempted: {saved}; the same command resumes from there")

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if not (self._training or self._saved or self._signalled):
            self._signalled = True
            raise Preempted("preempted before the first step; the same command starts again")
        self._signalled = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        again, self._interrupted = self._interrupted, True
        if not self._training:
            raise KeyboardInterrupt(*([f"interrupted: {self._saved}"] if self._saved else []))
        if again and self._is_interactive:
            raise KeyboardInterrupt
        if again:
            _end_at_once()
        if self._listener is None:
            _tell(_NOTICE)
        if jax.distributed.is_initialized():
            os.kill(os.getpid(), signal.SIGTERM)

    def _on_sigint(self, count: int) -> None:
        if count > 1:
            _end_at_once()
        if self._training:
            _tell(_NOTICE)


class _Listener:
    """Receives SIGINT in a separate thread, even while the main thread waits outside Python.

    Python runs signal handlers between two bytecode instructions of the main thread, so not while
    that thread waits for a device, a compiler or another process.
    """

    @classmethod
    def start(cls, on_sigint: Callable[[int], None]) -> _Listener | None:
        """Starts listening, unless the program has its own wakeup descriptor.

        on_sigint: called at each SIGINT with the number of SIGINTs so far.
        """
        read, write = socket.socketpair()
        write.setblocking(False)
        former = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        if former == -1:
            return cls(on_sigint, read, write)
        signal.set_wakeup_fd(former)
        read.close()
        write.close()
        return None

    def __init__(
        self, on_sigint: Callable[[int], None], read: socket.socket, write: socket.socket
    ) -> None:
        self._on_sigint, self._read, self._write = on_sigint, read, write
        self._thread = threading.Thread(target=self._listen, name="interrupts", daemon=True)
        self._thread.start()

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._write.close()  # ends the thread
        self._thread.join()

    def _listen(self) -> None:
        count = 0
        with self._read:
            while numbers := self._read.recv(64):
                for _ in range(numbers.count(signal.SIGINT)):
                    count += 1
                    self._on_sigint(count)


def _tell(text: str) -> None:
    # Raised without a reader, by a closed file, or if the signal interrupted another print.
    with suppress(OSError, ValueError, RuntimeError):
        print(text, flush=True)


def _end_at_once() -> None:
    if sys.stdout is not None and sys.stdout.isatty():
        _tell(_SHOW_CURSOR)
    with suppress(OSError):
        os.write(2, b"error: interrupted again: ended at once\n")
    os._exit(INTERRUPTED_STATUS)
