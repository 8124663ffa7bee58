"""Signals wait while the device works.

A signal's handler may raise at any line: Ctrl-C in the middle of a computation loses what it would
have returned, and an interpreter that exits while the device still computes may crash. JAX and the
garbage collector also swallow some exceptions that a handler raises inside of them. So each piece
of device work (a prefill, a few tokens) is awaited as a whole, and signals are handled after it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Those for which programs install handlers that raise.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Ctrl-C inside the block is noted; the block asks between its steps and ends when it likes.

    Yields: whether Ctrl-C has come. Where SIGINT has no handler in Python, is ignored, or the block
    is not run by the main thread, nothing changes, and the answer is always no.
    """
    former = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(former):
        yield lambda: False
        return
    came: list[int] = []  # not an Event, whose lock a second signal would find taken
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, former)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Handlers written in Python run after the block, once each, instead of inside it.

    The block has to wait for the device work that it starts. A signal that has no handler, or is
    ignored, does what it always does. Only the main thread handles signals: elsewhere nothing
    changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former: dict[int, Callable[[int, FrameType | None], Any]] = {}
    arrived: list[int] = []
    deferring = True

    def handle(number: int, frame: FrameType | None) -> None:
        if deferring:
            arrived.append(number)
        else:  # an earlier signal raised before this handler was taken away
            former[number](number, frame)

    try:
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                former[number] = handler
                signal.signal(number, handle)
        yield
    finally:
        deferring = False
        for restored, handler in former.items():
            signal.signal(restored, handler)
        for noted in dict.fromkeys(arrived):
            former[noted](noted, None)
