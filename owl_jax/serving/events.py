"""Server-sent events, as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold pieces back
]

PING = b": ping\n\n"  # a comment, which clients skip
DONE = b"data: [DONE]\n\n"


def event(body: Mapping[str, Any]) -> bytes:
    """A JSON object as an event."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"
