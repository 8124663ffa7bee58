"""One answer: from the engine's tokens to text, log-probabilities and the reason of its end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from owl_jax.errors import UserError
from owl_jax.inference.requests import Finished, Token
from owl_jax.inference.text_stream import AnswerText
from owl_jax.serving.errors import ApiError, api_error, internal_error, unavailable
from owl_jax.serving.job import Job
from owl_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Delta:
    """What some tokens add to an answer. Text may follow its tokens later: a stop text or a
    character may be incomplete. reason: of the answer's end, if it ends here."""

    text: str = ""
    tokens: Sequence[Token] = ()
    reason: str | None = None


@dataclass
class Answer:
    """One choice of a job.

    num_tokens: generated, with the one that ended the answer. reason: "stop" or "length"; None
    until the answer is complete. text, tokens: all of them, for an answer that is not streamed.
    """

    job: Job
    index: int
    tokenizer: Tokenizer
    num_tokens: int = 0
    cached_tokens: int = 0
    reason: str | None = None
    text: str = ""
    tokens: list[Token] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stream = AnswerText(self.tokenizer, self.job.stops, self.job.start)
        self._end_ids = frozenset(self.job.requests[self.index].end_ids)

    def add(self, tokens: Sequence[Token]) -> Delta:
        """Takes new tokens; sets `reason` if a stop text is complete. Later tokens are dropped."""
        if self.reason is not None:
            return Delta()
        text, kept = "", []
        for token in tokens:
            self.num_tokens += 1
            if token.id in self._end_ids:
                break
            may_stop = self.num_tokens > self.job.min_tokens
            text += self._stream.push(token.id, may_stop=may_stop)
            kept.append(token)
            if self._stream.is_stopped:
                self.reason = "stop"
                text += self._stream.finish()
                break
        return self._kept(Delta(text, kept, self.reason))

    def finish(self, event: Finished, request_id: str) -> Delta:
        """Takes the engine's last event. Raises ApiError if the answer cannot be completed."""
        self.cached_tokens = event.cached_tokens
        if self.reason is not None:  # the engine was asked to stop
            return Delta()
        match event.reason:
            case "stop" | "length":
                self.reason = event.reason
            case "deadline":
                raise ApiError(504, "the answer took too long; ask for less", code="timeout")
            case "cancelled":
                raise unavailable("the server is shutting down", "shutting_down")
            case _:
                if isinstance(event.error, UserError):
                    raise api_error(event.error) from event.error
                logging.getLogger(__name__).error(
                    "request %s failed", request_id, exc_info=event.error
                )
                raise internal_error(request_id)
        text = self._stream.finish()
        if self._stream.is_stopped:  # by a character that is complete only now
            self.reason = "stop"
        return self._kept(Delta(text, (), self.reason))

    def _kept(self, delta: Delta) -> Delta:
        self.text += delta.text
        self.tokens += delta.tokens
        return delta
