"""POST /votes: what people think of answers, appended to a JSON Lines file.

A line has the time, the vote, the answer's id, the model, and the conversation up to the answer, in
the form of a request: pictures and videos are data URIs. A later line with the same id replaces the
vote of an earlier one.
"""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from owl_jax.errors import UserError
from owl_jax.files import check_regular
from owl_jax.serving.endpoint import check_type
from owl_jax.serving.errors import ApiError
from owl_jax.serving.protocol import VoteBody, read_as
from owl_jax.serving.service import Service


class VoteFile:
    """A file that lines are appended to, by several threads or processes."""

    def __init__(self, path: str, most_bytes: int) -> None:
        """Raises UserError if the file cannot be written."""
        # Without O_NONBLOCK, opening a FIFO would wait for a reader. Regular files ignore it.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, 0o600)
            check_regular(self._file, path)
        except (OSError, ValueError) as error:
            raise UserError(f"--votes_file={path} cannot be written: {error}") from None
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    def append(self, line: bytes) -> None:
        """Writes all of a line, or nothing.

        Raises ApiError: 507 if the file would be too large, or the disk is full.
        """
        with self._lock:
            size = os.fstat(self._file).st_size
            if size + len(line) > self._most_bytes:
                raise ApiError(507, "the file of votes is full; the vote is not kept", code="full")
            try:
                if os.write(self._file, line) == len(line):
                    return
            except OSError as error:
                raise _not_kept(error.strerror or "") from error
            os.ftruncate(self._file, size)
        raise _not_kept("the disk is full")


class Votes:
    """The endpoint. Requests are checked as those for answers are."""

    def __init__(self, service: Service) -> None:
        """Raises UserError if the file of votes cannot be written."""
        self._service = service
        settings = service.settings
        path = settings.votes_file
        self._file = None if path is None else VoteFile(path, settings.votes_bytes)

    async def __call__(self, request: Request) -> Response:
        """204. Raises ApiError."""
        if self._file is None:
            raise ApiError(404, "this server keeps no votes (--votes_file is not given)")
        check_type(request)
        body = await self._service.bodies.read(request)
        try:
            with self._service.preparing():
                await self._service.in_pool(partial(self._keep, self._file, bytes(body.data)))
        finally:
            body.release()
        return Response(status_code=204)

    def _keep(self, file: VoteFile, body: bytes) -> None:
        """In the pool."""
        vote = read_as(VoteBody, body)
        self._service.model.adapter(vote.model)  # refuses an unknown one
        if vote.messages[-1].role != "assistant":
            raise ApiError(400, "messages: expected the assistant's answer last", param="messages")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, **msgspec.json.decode(body)}  # as it was sent, without our defaults
        file.append(msgspec.json.encode(line) + b"\n")


def _not_kept(why: str) -> ApiError:
    return ApiError(507, f"the vote is not kept: {why}", code="not_written")
