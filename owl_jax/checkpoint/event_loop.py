"""Event loops that end what was begun on them.

Orbax reads and writes a checkpoint's arrays at once, as tasks of an event loop of its own, and
closes that loop when the first of them fails. The others are under way then: they end as "Exception
ignored in ..." and "Event loop is closed", thousands of lines that TensorStore's threads print at
any time, around the one that tells what is wrong.
"""

import asyncio


class _PatientLoop(asyncio.SelectorEventLoop):
    def close(self) -> None:
        # Not cancelled: TensorStore reports to its loop even what nobody waits for.
        if not self.is_closed() and (pending := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        super().close()


class _PatientPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _PatientLoop()


def use_patient_event_loops() -> None:
    """Lets the event loops of this process wait for their tasks before they close.

    Those of all libraries, since they cannot be given one; a policy of event loops that the program
    has chosen stays.
    """
    if type(asyncio.get_event_loop_policy()) is asyncio.DefaultEventLoopPolicy:
        asyncio.set_event_loop_policy(_PatientPolicy())
