"""POST /v1/chat/completions and /v1/completions: from a request to its answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from owl_jax.serving.access_log import note
from owl_jax.serving.body import Body
from owl_jax.serving.errors import ApiError
from owl_jax.serving.forms import Form
from owl_jax.serving.generation import Generation
from owl_jax.serving.job import Job, Planner
from owl_jax.serving.metrics import Clock
from owl_jax.serving.presence import while_connected
from owl_jax.serving.reply import Reply
from owl_jax.serving.service import Service
from owl_jax.text.tokenizer import Tokenizer


class Endpoint:
    """An ASGI application that answers one path."""

    def __init__(
        self,
        service: Service,
        plan: Callable[[Planner, bytes], Job],
        form: Callable[[Job, Tokenizer], Form],
    ) -> None:
        """plan: the job of a body; runs in the pool. form: how answers are written."""
        self._service, self._plan, self._form = service, plan, form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Raises ApiError before the response has begun."""
        clock = self._service.metrics.clock()
        request, planner = Request(scope, receive), self._service.planner
        check_type(request)
        try:
            body = await self._service.bodies.read(request)
            try:
                work = self._answer(scope, receive, send, planner, body, clock)
                await while_connected(receive, work)
            finally:
                body.release()
        except ClientDisconnect:
            note(scope, ended="client gone")

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        planner: Planner,
        body: Body,
        clock: Clock,
    ) -> None:
        generation = Generation(planner.model.engine)
        prepare = partial(self._prepare, planner, generation)
        with self._service.preparing():
            try:
                job = await self._service.in_pool(partial(prepare, bytes(body.data)))
            except BaseException:
                generation.cancel()
                raise
        body.release()
        tokenizer = planner.model.owl.tokenizer
        reply = Reply(
            job,
            self._form(job, tokenizer),
            tokenizer,
            generation,
            clock,
            self._service.settings.ping_seconds,
        )
        await reply(scope, receive, send)

    def _prepare(self, planner: Planner, generation: Generation, body: bytes) -> Job:
        """In the pool: everything up to the engine's queue."""
        job = self._plan(planner, body)
        generation.submit(job.requests)
        return job


def check_type(request: Request) -> None:
    """Raises ApiError unless the request says that it is JSON.

    A web page of any origin may make a browser send text or a form here, but JSON only if the
    server allows its origin.
    """
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != "application/json":
        raise ApiError(
            415, f"Content-Type is {found[:100]!r}; expected application/json", code="not_json"
        )
