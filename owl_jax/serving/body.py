"""Reads the bodies of requests, with a limit for each, for all together, and for time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request

from owl_jax.serving.errors import ApiError, unavailable
from owl_jax.serving.settings import Limits

_DISCARDED = 4  # times the limit of a body, at most


class Bodies:
    """The bodies that are in memory. Used by the event loop only."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0  # bytes

    async def read(self, request: Request) -> Body:
        """The whole body, to be released.

        Raises ApiError: 413 above the limit of one, 408 after `body_seconds`, 503 while others
        take the memory; ClientDisconnect if the client goes away.
        """
        body, chunks = Body(self), request.stream()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                try:
                    await self._fill(body, request.headers.get("content-length", ""), chunks)
                except ApiError:
                    # Clients send all of a body before they read, and lose an answer whose
                    # connection is closed before that.
                    body.release()
                    await self._discard(chunks)
                    raise
        except BaseException as error:
            body.release()
            if not isinstance(error, TimeoutError):
                raise
            raise ApiError(
                408,
                f"the body was not complete after {self.limits.body_seconds:g} seconds",
                headers={"Connection": "close"},
            ) from None
        return body

    async def _fill(self, body: Body, stated: str, chunks: AsyncIterator[bytes]) -> None:
        """stated: the Content-Length."""
        most = self.limits.body_bytes
        if stated.isdecimal() and int(stated) > most:
            raise self._too_large(f"has {int(stated):,} bytes")
        async for chunk in chunks:
            if len(body.data) + len(chunk) > most:
                raise self._too_large(f"has more than {most:,} bytes")
            if self.held + len(chunk) > self.limits.bodies_bytes:
                raise unavailable("too many large requests at the moment", "bodies_full")
            body.data += chunk
            self.held += len(chunk)

    async def _discard(self, chunks: AsyncIterator[bytes]) -> None:
        """Reads what is left of a body, unless it is far too large."""
        left = _DISCARDED * self.limits.body_bytes
        async for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                return

    def _too_large(self, found: str) -> ApiError:
        return ApiError(
            413,
            f"the body {found}; expected at most {self.limits.body_bytes:,}",
            code="body_too_large",
            headers={"Connection": "close"},  # the rest is not read
        )


class Body:
    """A body that counts among those in memory until it is released."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.data = bytearray()

    def release(self) -> None:
        """Forgets the body. May be called twice."""
        self._bodies.held -= len(self.data)
        self.data = bytearray()
