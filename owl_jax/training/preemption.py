"""SIGTERM: somebody wants the machine back, and the run is to be saved first."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

# EX_TEMPFAIL of sysexits.h: the run has saved and is to be started again (launch/common.sh, AGAIN).
EXIT_STATUS = 75


class Preempted(Exception):
    """The run has ended before its last step, and nothing of it is lost."""


class Preemption:
    """Tells at which step the run has to be saved and ended; a context manager around the run.

    A process alone looks at its own signal. Where JAX's coordination service runs it is asked: it
    passes the signal of any process on to all, and names one step that none of them has passed yet.

    Signals may come twice, from a launcher and from the system: the second changes nothing.
    """

    def __init__(self) -> None:
        self._signalled = self._training = False
        self._former: Any = None

    def __enter__(self) -> Self:
        # Python takes signals in its main thread only; elsewhere they are their owner's.
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and not jax.distributed.is_initialized():
            self._former = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)

    def training_begins(self) -> None:
        """From here on a signal waits for the end of a step; before, the run ends where it is."""
        self._training = True

    def reached(self, step: int) -> bool:
        """Whether `step` is the one; every process asks after each of its steps."""
        if jax.distributed.is_initialized():
            return reached_preemption_sync_point(step)
        return self._signalled

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if not self._training and not self._signalled:
            self._signalled = True
            raise Preempted("no step was taken yet")
        self._signalled = True
