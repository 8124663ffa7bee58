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
    """The run has saved and ended before its last step."""


class Preemption:
    """Tells at which step the run has to be saved and ended.

    A process alone looks at its own signal. Several ask JAX's coordination service, which passes
    the signal of any of them on to all, and names one step that none of them has passed yet.

    A second SIGTERM to a process alone ends it at once.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._former: Any = None

    def __enter__(self) -> Self:
        # Python takes signals in its main thread only; elsewhere they are their owner's.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def reached(self, step: int) -> bool:
        """Whether `step` is the one; every process asks after each of its steps."""
        if jax.process_count() == 1:
            return self._signalled
        return reached_preemption_sync_point(step)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        self._restore()

    def _restore(self) -> None:
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)
            self._former = None
