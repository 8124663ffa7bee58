"""Errors in OpenAI's form: {"error": {"message", "type", "param", "code"}} and a status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from owl_jax.errors import BadData, UserError, capped, printable
from owl_jax.inference.api import PromptTooLong
from owl_jax.inference.requests import QueueFull

RETRY_AFTER = 5  # seconds


class ApiError(Exception):
    """An answer other than the one that was asked for.

    param: the field of the request that is wrong. code: for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = capped(printable(message))
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's form."""
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def response(self) -> Response:
        """The whole answer."""
        body = msgspec.json.encode(self.body)
        return Response(body, self.status, self.headers, media_type="application/json")


_TYPES = {
    401: "authentication_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


def unavailable(message: str, code: str) -> ApiError:
    """The server cannot answer now, but will soon."""
    return ApiError(503, message, code=code, headers={"Retry-After": str(RETRY_AFTER)})


def internal_error(request_id: str) -> ApiError:
    """A fault of ours; the log has the rest."""
    return ApiError(
        500, f"internal error; the server's log has it under {request_id}", code="internal_error"
    )


def api_error(error: UserError, param: str | None = None) -> ApiError:
    """A user's mistake that a lower level has found."""
    if isinstance(error, QueueFull):
        return unavailable(str(error), "queue_full")
    if isinstance(error, PromptTooLong):
        return ApiError(400, str(error), param=param, code="context_length_exceeded")
    code = "invalid_media" if isinstance(error, BadData) else None
    return ApiError(400, str(error), param=param, code=code)
