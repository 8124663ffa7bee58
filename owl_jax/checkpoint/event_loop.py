"""Event loops that end what was begun on them.

Orbax reads and writes a checkpoint's arrays at once, as tasks of an event loop of its own, and
closes that loop when the first of them fails. The others are under way then: they end as "Exception
ignored in ..." and "Event loop is closed", thousands of lines that TensorStore's threads print at
any time, around the one that tells what is wrong.
"""

import asyncio


class _PatientLoop(asyncio.SelectorEventLoop):
    def close(self) -> None:
        if not self.is_closed() and asyncio._get_running_loop() is None:
            # Not cancelled: TensorStore reports to its loop even what nobody waits for. Again and
            # again, since they begin others.
            while pending := asyncio.all_tasks(self):
                self.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self.run_until_complete(asyncio.sleep(0))  # what ended last is still to be told
        super().close()


class _PatientPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _PatientLoop()


def use_patient_event_loops() -> None:
    """Lets event loops that are made from now on wait for their tasks before they close.

    Those of all libraries in this process, since they cannot be given one; errors of tasks that
    nobody waits for are not told. A policy of event loops that the program has chosen stays, and
    where a loop is running already Orbax takes another kind, which does not wait.
    """
    if type(asyncio.get_event_loop_policy()) is asyncio.DefaultEventLoopPolicy:
        asyncio.set_event_loop_policy(_PatientPolicy())
