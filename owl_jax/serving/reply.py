"""Writes the answers of one job while the engine makes them: whole, or as a stream."""

from __future__ import annotations

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from owl_jax.inference.requests import Tokens
from owl_jax.serving import events
from owl_jax.serving.access_log import note, request_id
from owl_jax.serving.answer import Answer, Delta
from owl_jax.serving.errors import ApiError
from owl_jax.serving.forms import Form, usage_of
from owl_jax.serving.generation import Generation
from owl_jax.serving.job import Job
from owl_jax.serving.metrics import Clock
from owl_jax.text.tokenizer import Tokenizer


class Reply:
    """A response in the making."""

    def __init__(
        self,
        job: Job,
        form: Form,
        tokenizer: Tokenizer,
        generation: Generation,
        clock: Clock,
        ping_seconds: float,
    ) -> None:
        """clock: has run since the request came. ping_seconds: between two signs of life."""
        self._job, self._form, self._generation = job, form, generation
        self._answers = [Answer(job, index, tokenizer) for index in range(len(job.requests))]
        self._clocks = [clock.copy() for _ in job.requests]
        self._ping_seconds = ping_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Raises ApiError before the response has begun."""
        try:
            if self._job.stream:
                await self._stream(scope, send)
            else:
                await self._whole(scope, receive, send)
        finally:
            self._generation.cancel()
            usage = usage_of(self._job, self._answers)
            names = ("prompt_tokens", "completion_tokens")
            note(scope, model=self._job.model, **{name: usage[name] for name in names})

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        while self._generation.is_running:
            await self._next(request_id(scope))
        body = self._form.whole(self._answers, usage_of(self._job, self._answers))
        response = Response(msgspec.json.encode(body), media_type="application/json")
        await response(scope, receive, send)

    async def _stream(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": events.HEADERS})
        openings = [self._form.opening(answer.index) for answer in self._answers]
        await _send(send, b"".join(events.event(each) for each in openings if each))
        try:
            while self._generation.is_running:
                added = await self._next(request_id(scope), self._ping_seconds)
                chunks = b"".join(self._event(answer, delta) for answer, delta in added)
                await _send(send, chunks if added else events.PING)
        except ApiError as error:
            note(scope, ended=error.code)
            last = events.event(error.body)
        else:
            last = b""
            if self._job.include_usage:
                last = events.event(self._form.closing(usage_of(self._job, self._answers)))
        await send({"type": "http.response.body", "body": last + events.DONE})

    async def _next(
        self, request_id: str, seconds: float | None = None
    ) -> list[tuple[Answer, Delta]]:
        """Takes the next events; [] if none comes for `seconds`."""
        added = []
        for index, event in await self._generation.events(seconds):
            answer, clock = self._answers[index], self._clocks[index]
            was_complete = answer.reason is not None
            if isinstance(event, Tokens):
                before = answer.num_tokens
                delta = answer.add(event.tokens)
                clock.tokens(answer.num_tokens - before)
            else:
                delta = answer.finish(event, request_id)
            if answer.reason is not None and not was_complete:
                clock.ended(answer.reason, answer.num_tokens)
                self._generation.cancel_one(index)
            if not was_complete:
                added.append((answer, delta))
        return added

    def _event(self, answer: Answer, delta: Delta) -> bytes:
        """The chunk of some tokens; b"" if there is nothing to tell."""
        has_logprobs = self._job.requests[0].num_logprobs is not None and delta.tokens
        if not (delta.text or has_logprobs or delta.reason):
            return b""
        usage = usage_of(self._job, self._answers) if self._job.continuous_usage else None
        return events.event(self._form.chunk(answer, delta, usage))


async def _send(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})
