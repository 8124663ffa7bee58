"""Event loops for Orbax that finish all their tasks before they close.

Orbax reads and writes all arrays of a checkpoint concurrently, as tasks of its own event loop, and
closes that loop when the first task fails. TensorStore's threads then print thousands of lines for
the unfinished tasks ("Exception ignored in ...", "Event loop is closed"), which bury the one line
that explains the failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class _PatientLoop(asyncio.SelectorEventLoop):
    def close(self) -> None:
        if not self.is_closed() and asyncio._get_running_loop() is None:
            # Wait, do not cancel: TensorStore reports to the loop even if nothing awaits that.
            # Repeat, since tasks may start others.
            while pending := asyncio.all_tasks(self):
                self.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self.run_until_complete(asyncio.sleep(0))  # runs the last callbacks
        super().close()


class _PatientPolicy(asyncio.AbstractEventLoopPolicy):
    """Makes patient loops; delegates everything else to the policy it replaces."""

    def __init__(self, former: asyncio.AbstractEventLoopPolicy) -> None:
        self.former = former
        self.users = 0

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _PatientLoop()

    def get_event_loop(self) -> asyncio.AbstractEventLoop:
        return self.former.get_event_loop()

    def set_event_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.former.set_event_loop(loop)

    def get_child_watcher(self) -> asyncio.AbstractChildWatcher:
        return self.former.get_child_watcher()

    def set_child_watcher(self, watcher: asyncio.AbstractChildWatcher) -> None:
        self.former.set_child_watcher(watcher)


@contextmanager
def patient_event_loops() -> Iterator[None]:
    """Makes event loops created inside the block wait for their tasks before they close.

    Orbax creates its own loops, also in threads, and does not accept one. Errors of tasks that
    nothing awaits are not reported. This changes nothing if the program has set its own event loop
    policy, or if a loop is already running: Orbax then uses another kind, which does not wait.

    Blocks may overlap in any order; the last one to end restores the policy.
    """
    policy = asyncio.get_event_loop_policy()
    if type(policy) is asyncio.DefaultEventLoopPolicy:
        policy = _PatientPolicy(policy)
        asyncio.set_event_loop_policy(policy)
    if not isinstance(policy, _PatientPolicy):
        yield
        return
    policy.users += 1
    try:
        yield
    finally:
        policy.users -= 1
        if not policy.users and asyncio.get_event_loop_policy() is policy:
            asyncio.set_event_loop_policy(policy.former)
