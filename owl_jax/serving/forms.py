"""The bodies of answers in OpenAI's form: whole, and as the chunks of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any, Protocol

from owl_jax.inference.requests import Token
from owl_jax.serving.answer import Answer, Delta
from owl_jax.serving.job import Job
from owl_jax.text.tokenizer import Tokenizer

_LOWEST = -9999.0  # OpenAI's value for a probability of 0; JSON has no infinity

Json = dict[str, Any]


class Form(Protocol):
    """How an endpoint writes its answers."""

    def whole(self, answers: Sequence[Answer], usage: Json) -> Json:
        """The body of an answer that is not streamed."""

    def opening(self, index: int) -> Json | None:
        """The first chunk of a choice, if there is one before its text."""

    def chunk(self, answer: Answer, delta: Delta, usage: Json | None) -> Json:
        """A chunk of a choice; the last one has the reason of its end."""

    def closing(self, usage: Json) -> Json:
        """The last chunk of the stream, with the counts."""


def usage_of(job: Job, answers: Sequence[Answer]) -> Json:
    """The counts of a request."""
    new = sum(answer.num_tokens for answer in answers)
    # n choices share a prompt, which counts once: as the first of them has found it.
    cached: dict[int, int] = {}
    for answer, request in zip(answers, job.requests, strict=True):
        cached.setdefault(id(request.prompt), answer.cached_tokens)
    return {
        "prompt_tokens": job.prompt_tokens,
        "completion_tokens": new,
        "total_tokens": job.prompt_tokens + new,
        "prompt_tokens_details": {"cached_tokens": sum(cached.values())},
    }


class _Envelope:
    """What the bodies of both endpoints have in common."""

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, job: Job, tokenizer: Tokenizer) -> None:
        self._head = {"id": f"{self.prefix}-{secrets.token_hex(12)}"}
        self._tail = {"created": int(time.time()), "model": job.model}
        self._tokenizer = tokenizer
        self._with_logprobs = job.requests[0].num_logprobs is not None
        self._with_usage = job.include_usage or job.continuous_usage

    def _body(self, choices: list[Json], usage: Json) -> Json:
        return {**self._head, "object": self.kind, **self._tail, "choices": choices, "usage": usage}

    def _chunk(self, choices: list[Json], usage: Json | None) -> Json:
        body = {**self._head, "object": self.chunk_kind, **self._tail, "choices": choices}
        return {**body, "usage": usage} if self._with_usage else body

    def closing(self, usage: Json) -> Json:
        """See Form."""
        return self._chunk([], usage)

    def _text(self, token: int) -> str:
        return self._bytes(token).decode("utf-8", errors="replace")

    def _bytes(self, token: int) -> bytes:
        special = self._tokenizer.special_tokens.get(token)
        return special.encode() if special else self._tokenizer.token_bytes(token)


class ChatForm(_Envelope):
    """Of /v1/chat/completions."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def whole(self, answers: Sequence[Answer], usage: Json) -> Json:
        """See Form."""
        choices = [
            {
                "index": answer.index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": self._logprobs(answer.tokens),
                "finish_reason": answer.reason,
            }
            for answer in answers
        ]
        return self._body(choices, usage)

    def opening(self, index: int) -> Json | None:
        """See Form."""
        return self._delta(index, {"role": "assistant", "content": ""}, None, None)

    def chunk(self, answer: Answer, delta: Delta, usage: Json | None) -> Json:
        """See Form."""
        added = {"content": delta.text} if delta.text or delta.tokens else {}
        logprobs = self._logprobs(delta.tokens) if delta.tokens else None
        return self._delta(answer.index, added, logprobs, delta.reason, usage)

    def _delta(
        self,
        index: int,
        delta: Json,
        logprobs: Json | None,
        reason: str | None,
        usage: Json | None = None,
    ) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._chunk([choice], usage)

    def _logprobs(self, tokens: Sequence[Token]) -> Json | None:
        if not self._with_logprobs:
            return None
        content = [
            {
                **self._likelihood(token.id, token.logprob),
                "top_logprobs": [self._likelihood(*each) for each in token.top],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _likelihood(self, token: int, logprob: float) -> Json:
        data = self._bytes(token)
        return {
            "token": data.decode("utf-8", errors="replace"),
            "logprob": max(logprob, _LOWEST),
            "bytes": list(data),
        }


class CompletionForm(_Envelope):
    """Of /v1/completions."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, job: Job, tokenizer: Tokenizer) -> None:
        super().__init__(job, tokenizer)
        self._offsets = [0] * len(job.requests)  # characters of each choice so far

    def whole(self, answers: Sequence[Answer], usage: Json) -> Json:
        """See Form."""
        choices = [
            self._choice(answer.index, Delta(answer.text, answer.tokens, answer.reason))
            for answer in answers
        ]
        return self._body(choices, usage)

    def opening(self, index: int) -> Json | None:
        """See Form."""
        return None

    def chunk(self, answer: Answer, delta: Delta, usage: Json | None) -> Json:
        """See Form."""
        return self._chunk([self._choice(answer.index, delta)], usage)

    def _choice(self, index: int, delta: Delta) -> Json:
        logprobs = self._logprobs(index, delta.tokens) if self._with_logprobs else None
        return {
            "index": index,
            "text": delta.text,
            "logprobs": logprobs,
            "finish_reason": delta.reason,
        }

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> Json:
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(self._text(token.id))
        return {
            "tokens": [self._text(token.id) for token in tokens],
            "token_logprobs": [max(token.logprob, _LOWEST) for token in tokens],
            "top_logprobs": [
                {self._text(id): max(logprob, _LOWEST) for id, logprob in token.top}
                for token in tokens
            ],
            "text_offset": offsets,
        }
