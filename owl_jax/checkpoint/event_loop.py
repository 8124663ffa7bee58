"""Event loops that end what was begun on them, for as long as Orbax works.

Orbax reads and writes a checkpoint's arrays at once, as tasks of an event loop of its own, and
closes that loop when the first of them fails. The others are under way then: they end as "Exception
ignored in ..." and "Event loop is closed", thousands of lines that TensorStore's threads print at
any time, around the one that tells what is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class _PatientLoop(asyncio.SelectorEventLoop):
    def close(self) -> None:
        if not self.is_closed() and asyncio._get_running_loop() is None:
            # Not cancelled: TensorStore reports to its loop even what nobody waits for. Again and
            # again, since they begin others.
            while pending := asyncio.all_tasks(self):
                self.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self.run_until_complete(asyncio.sleep(0))  # what ended last is still to be told
        super().close()


class _PatientPolicy(asyncio.AbstractEventLoopPolicy):
    """Makes patient loops; everything else is left to the policy of the program."""

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
    """Event loops that are made inside the block wait for their tasks before they close.

    Orbax makes its loops itself, in threads too, and cannot be given one. Errors of tasks that
    nobody waits for are not told. A policy of event loops that the program has chosen stays, and
    where a loop is running already Orbax takes another kind, which does not wait.

    Blocks may overlap in any order; after the last one the policy is what it was.
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
