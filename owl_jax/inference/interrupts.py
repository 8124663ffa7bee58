"""Defers signals while the device works.

A signal handler may raise at any line. Ctrl-C in the middle of a computation would lose its result,
and an interpreter that exits while the device computes may crash. JAX and the garbage collector
also swallow some exceptions of handlers. So signals are handled after each piece of device work (a
prefill, a few tokens).
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Signals for which programs install handlers that raise.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)

_WAKE_EVERY = 0.05  # seconds


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Records Ctrl-C inside the block instead of raising KeyboardInterrupt.

    Yields a function that says whether Ctrl-C has come; the block calls it between its steps and
    ends when it likes. If SIGINT is ignored or has no Python handler, and in threads other than the
    main thread, nothing changes and the function returns False.
    """
    former = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(former):
        yield lambda: False
        return
    came: list[int] = []  # not an Event: a second signal would deadlock on its lock
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, former)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Runs Python signal handlers after the block, once each, instead of inside it.

    The block must wait for the device work that it starts. Signals that are ignored or have no
    Python handler are unaffected, as are threads other than the main thread.
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
        else:  # the handler of an earlier signal raised before this one was restored
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


@contextmanager
def readline_woken() -> Iterator[None]:
    """Lets Python signal handlers run soon after a signal, even while input() waits in the block.

    CPython's readline checks for signals, then waits for a key. It handles a signal that arrives in
    between only after the next key (its `select` has no time-out). A thread learns of each signal
    from CPython's wakeup descriptor, and interrupts the wait with SIGURG until the block ends.

    Only the main thread can read lines with readline; in other threads the block just runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = threading.Event()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def wake(main: int) -> None:
        if ours.recv(1):  # empty once the block has ended without a signal
            while not ended.wait(_WAKE_EVERY):
                signal.pthread_kill(main, signal.SIGURG)

    former = signal.signal(signal.SIGURG, lambda number, frame: None)
    former_descriptor = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    waker = threading.Thread(target=wake, args=(threading.get_ident(),), daemon=True)
    waker.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former_descriptor)
        ended.set()
        theirs.close()
        waker.join()
        ours.close()
        signal.signal(signal.SIGURG, former or signal.SIG_DFL)
