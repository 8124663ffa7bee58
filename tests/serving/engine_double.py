"""An engine that answers from a script: no device, no waiting unless a test wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from owl_jax.inference.api import PromptTooLong
from owl_jax.inference.requests import (
    ChatPrompt,
    Event,
    Finished,
    FinishReason,
    QueueFull,
    Request,
    Stats,
    Ticket,
    Token,
    Tokens,
)

Script = Callable[[Request], Sequence[int] | Exception]


class EngineDouble:
    """See inference/engine.py.

    script: the tokens of an answer; an error ends the request. chunk: tokens of an event.
    seconds: before each chunk. requests: all that were submitted. ended: the reason of each end.
    """

    def __init__(
        self,
        script: Script,
        *,
        chunk: int = 3,
        seconds: float = 0.0,
        row_length: int = 192,
        max_waiting: int = 64,
        adapters: tuple[str, ...] = (),
        frames: tuple[int, ...] = (4,),
    ) -> None:
        self.script, self.chunk, self.seconds = script, chunk, seconds
        self.num_rows = 4
        self.row_length, self.max_waiting, self.adapters = row_length, max_waiting, adapters
        self.frames = frames
        self.requests: list[Request] = []
        self.ended: list[str] = []
        self.is_closed = False
        self._running = 0
        self._new = 0

    def submit(self, request: Request, listener: Callable[[Event], None]) -> Ticket:
        if self._running >= self.max_waiting:
            raise QueueFull("the queue is full")
        self.max_new_tokens(request.prompt)
        self.requests.append(request)
        self._running += 1
        ticket = Ticket(request, listener)
        threading.Thread(target=self._answer, args=[ticket], daemon=True).start()
        return ticket

    def problem(self, stall_seconds: float) -> str | None:
        return None

    def max_new_tokens(self, prompt: ChatPrompt) -> int:
        length = len(prompt.input_ids)
        if length >= self.row_length:
            raise PromptTooLong(f"the prompt has {length} tokens; a row takes {self.row_length}")
        return self.row_length - length

    def stats(self) -> Stats:
        prompts = sum(len(request.prompt.input_ids) for request in self.requests)
        media = sum(len(r.prompt.images) + len(r.prompt.videos) for r in self.requests)
        done = len(self.ended)
        return Stats(self._running, 0, 0.5, prompts, 0, self._new, done, media, 0, 0)

    def drain(self, timeout: float) -> bool:
        end = time.monotonic() + timeout
        while self._running and time.monotonic() < end:
            time.sleep(0.01)
        return not self._running

    def close(self) -> None:
        self.is_closed = True

    def _answer(self, ticket: Ticket) -> None:
        reason, error = self._tell(ticket)
        self._running -= 1
        self.ended.append(reason)
        ticket.listener(Finished(reason, error=error))

    def _tell(self, ticket: Ticket) -> tuple[FinishReason, Exception | None]:
        request = ticket.request
        script = self.script(request)
        if isinstance(script, Exception):
            return "error", script
        script = list(script)
        end = next((i + 1 for i, id in enumerate(script) if id in request.end_ids), len(script))
        ids = script[: min(end, request.max_new_tokens)]
        for start in range(0, len(ids), self.chunk):
            time.sleep(self.seconds)
            if ticket.is_cancelled or self.is_closed:
                return "cancelled", None
            if request.deadline is not None and time.monotonic() > request.deadline:
                return "deadline", None
            some = ids[start : start + self.chunk]
            self._new += len(some)
            ticket.listener(Tokens([self._token(request, id) for id in some]))
        return ("stop" if ids and ids[-1] in request.end_ids else "length"), None

    @staticmethod
    def _token(request: Request, id: int) -> Token:
        if request.num_logprobs is None:
            return Token(id)
        top = [(id, -0.5), (id + 1, -1.5), (id + 2, float("-inf"))]
        return Token(id, -0.5, top[: request.num_logprobs])
