"""A line of JSON on stderr for each request; never what it contains.

Also gives each request its id: the client's X-Request-Id if it is harmless, else a new one. The
answer has it too.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from owl_jax.serving.errors import internal_error

_HARMLESS = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LONGEST_PATH = 200
_GONE = 499  # nginx's status for a client that did not wait

# Where handlers find and leave things, in the ASGI scope.
ID, NOTES = "owl_request_id", "owl_notes"


def request_id(scope: Scope) -> str:
    """The id of a request."""
    found: str = scope[ID]
    return found


def note(scope: Scope, **fields: Any) -> None:
    """Adds fields to the request's line."""
    scope[NOTES].update(fields)


class AccessLog:
    """Middleware around everything else: an exception becomes a status of 500 here."""

    def __init__(
        self,
        app: ASGIApp,
        responded: Callable[[int], None] = lambda status: None,
        file: TextIO | None = None,
    ) -> None:
        """responded: called with the status of each response. file: stderr by default."""
        self._app, self._responded, self._file = app, responded, file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        text = given.decode("latin-1")
        scope[ID] = text if _HARMLESS.fullmatch(text) else uuid.uuid4().hex
        scope[NOTES] = {}
        start, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", scope[ID].encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logging.getLogger(__name__).exception("request %s failed", scope[ID])
            if not status:
                await internal_error(scope[ID]).response()(scope, receive, send_with_id)
        finally:
            self._responded(status or _GONE)
            self._write(scope, status or _GONE, time.monotonic() - start)

    def _write(self, scope: Scope, status: int, seconds: float) -> None:
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": scope[ID],
            "method": scope["method"],
            "path": scope["path"][:_LONGEST_PATH],
            "status": status,
            "seconds": round(seconds, 4),
            **scope[NOTES],
        }
        print(json.dumps(line), file=self._file or sys.stderr, flush=True)
