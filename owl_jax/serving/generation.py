"""Brings the engine's events into the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from owl_jax.errors import UserError
from owl_jax.inference.requests import Event, Finished, Request, Ticket
from owl_jax.serving.errors import api_error
from owl_jax.serving.model import Engine


class Generation:
    """Requests of one HTTP request, in the engine. Used by the event loop only."""

    def __init__(self, engine: Engine, requests: Sequence[Request]) -> None:
        """Submits all, or none.

        Raises ApiError for a full queue and for a request that cannot fit.
        """
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        self._running = set(range(len(requests)))
        try:
            for index, request in enumerate(requests):
                self._tickets.append(engine.submit(request, partial(self._listen, index)))
        except UserError as error:
            self.cancel()
            raise api_error(error) from error

    @property
    def is_running(self) -> bool:
        """Whether more events will come."""
        return bool(self._running)

    async def events(self, seconds: float | None = None) -> list[tuple[int, Event]]:
        """The next events, with the index of their request; [] if none comes for so long."""
        try:
            async with asyncio.timeout(seconds):
                found = [await self._events.get()]
        except TimeoutError:
            return []
        while not self._events.empty():
            found.append(self._events.get_nowait())
        self._running -= {index for index, event in found if isinstance(event, Finished)}
        return found

    def cancel(self, index: int | None = None) -> None:
        """Ends one request, or all that run, within one chunk of tokens."""
        for number, ticket in enumerate(self._tickets):
            if index in (None, number) and number in self._running:
                ticket.cancel()

    def _listen(self, index: int, event: Event) -> None:
        """Called by the engine's thread."""
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))
