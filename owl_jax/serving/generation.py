"""Brings the engine's events into the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from owl_jax.errors import UserError
from owl_jax.inference.requests import Event, Finished, Request, Ticket
from owl_jax.serving.errors import api_error
from owl_jax.serving.model import Engine


class Generation:
    """Requests of one HTTP request, in the engine. Made by the event loop, which takes events and
    cancels; `submit` runs in a thread of the pool, since the engine hashes pixels there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._lock = threading.Lock()
        self._tickets: list[Ticket] = []
        self._running: set[int] = set()
        self._is_cancelled = False

    def submit(self, requests: Sequence[Request]) -> None:
        """Submits all, or none.

        Raises ApiError for a full queue and for a request that cannot fit.
        """
        self._running = set(range(len(requests)))
        try:
            for index, request in enumerate(requests):
                ticket = self._engine.submit(request, partial(self._listen, index))
                with self._lock:
                    self._tickets.append(ticket)
                    if self._is_cancelled:  # the client has gone meanwhile
                        ticket.cancel()
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

    def cancel(self) -> None:
        """Ends all requests within one chunk of tokens, also those that are being submitted."""
        with self._lock:
            self._is_cancelled = True
            for ticket in self._tickets:
                ticket.cancel()

    def cancel_one(self, index: int) -> None:
        """Ends one request, whose answer is complete."""
        self._tickets[index].cancel()

    def _listen(self, index: int, event: Event) -> None:
        """Called by the engine's thread."""
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))
