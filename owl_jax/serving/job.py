"""From the body of a request to what the engine is asked. Blocks; for a thread of the pool."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from owl_jax.errors import UserError
from owl_jax.inference.api import PromptTooLong
from owl_jax.inference.requests import ChatPrompt, Constraint, Request
from owl_jax.inference.sampling import Sampling
from owl_jax.serving.constraint import ANY_OBJECT
from owl_jax.serving.download import Downloads
from owl_jax.serving.errors import ApiError, api_error
from owl_jax.serving.media import Media
from owl_jax.serving.messages import num_characters, owl_messages
from owl_jax.serving.model import Model
from owl_jax.serving.protocol import (
    ChatBody,
    Common,
    CompletionBody,
    JsonObjectFormat,
    JsonSchemaFormat,
    read_as,
)
from owl_jax.serving.settings import Settings
from owl_jax.text.conversation import longest_text

_SEEDS = 1 << 63
_DEFAULT_COMPLETION = 16  # tokens, as in OpenAI's API


@dataclass(frozen=True)
class Job:
    """What one HTTP request asks for.

    model: the name to answer with.
    requests: one for each choice.
    stops: texts that end an answer; not within its first `min_tokens` tokens.
    start: text that precedes each answer and is not part of it.
    """

    model: str
    requests: Sequence[Request]
    prompt_tokens: int
    stops: tuple[str, ...]
    start: str
    min_tokens: int
    stream: bool
    include_usage: bool
    continuous_usage: bool


@dataclass(frozen=True)
class Planner:
    """Makes jobs for one model."""

    model: Model
    settings: Settings
    downloads: Downloads

    def chat(self, body: bytes) -> Job:
        """Of a body of /v1/chat/completions. Raises ApiError."""
        asked = read_as(ChatBody, body)
        adapter = self.model.adapter(asked.model)
        if asked.top_logprobs is not None and not asked.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        self._check_choices(1, asked.n or 1, "n")
        num_frames = self._num_frames(asked)
        self._check_length(num_characters(asked.messages), "characters", "messages")
        media = Media(self.settings.limits, self.downloads)
        messages = owl_messages(asked.messages, media)
        try:
            prompt = self.model.owl.tokenize(messages, num_frames=num_frames)
        except UserError as error:
            raise api_error(error, "messages") from error
        wanted = asked.max_completion_tokens or asked.max_tokens
        num_logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        format = self.model.owl.format
        stops = () if asked.ignore_eos else format.stops
        job = self._job(asked, [prompt], adapter, wanted, num_logprobs, "messages")
        return replace(job, stops=(*job.stops, *stops), start=format.answer_start)

    def completion(self, body: bytes) -> Job:
        """Of a body of /v1/completions. Raises ApiError."""
        asked = read_as(CompletionBody, body)
        adapter = self.model.adapter(asked.model)
        if asked.best_of not in (None, asked.n or 1):
            raise ApiError(
                400, "best_of is not supported; expected the value of n", param="best_of"
            )
        given = _prompts(asked.prompt)
        self._check_choices(len(given), asked.n or 1, "prompt")
        prompts = [self._completion_prompt(each) for each in given]
        wanted = asked.max_tokens or _DEFAULT_COMPLETION
        return self._job(asked, prompts, adapter, wanted, asked.logprobs, "prompt")

    def _check_choices(self, num_prompts: int, n: int, param: str) -> None:
        """Raises ApiError if a request asks for too many answers."""
        if n * num_prompts > (most := self.settings.limits.choices):
            raise ApiError(
                400,
                f"{n * num_prompts} answers are asked for; expected at most {most}",
                param="n" if n > 1 else param,
                code="too_many",
            )

    def _check_length(self, length: int, unit: str, param: str) -> None:
        """Refuses a prompt that is far too long, before it takes time."""
        tokens = self.model.owl.config.llm.max_length
        if length > (longest_text(tokens) if unit == "characters" else tokens):
            raise api_error(
                PromptTooLong(
                    f"the prompt has {length:,} {unit} and leaves no room for an answer: the "
                    f"model's maximum is {tokens:,} tokens; shorten it"
                ),
                param,
            )

    def _num_frames(self, asked: ChatBody) -> int:
        options = asked.media_io_kwargs and asked.media_io_kwargs.video
        known = self.model.engine.frames  # each has programs of its own
        wanted = (options and options.num_frames) or known[0]
        if wanted not in known:
            param = "media_io_kwargs.video.num_frames"
            raise ApiError(
                400, f"{param} is {wanted}; expected {' or '.join(map(str, known))}", param=param
            )
        return wanted

    def _completion_prompt(self, prompt: str | list[int]) -> ChatPrompt:
        owl = self.model.owl
        unit = "characters" if isinstance(prompt, str) else "tokens"
        self._check_length(len(prompt), unit, "prompt")
        if isinstance(prompt, str):
            ids = owl.tokenizer.encode(prompt.encode("utf-8", errors="replace").decode("utf-8"))
            bos = owl.tokenizer.bos_id
            if bos is not None and owl.format.begins_with_bos(owl.tokenizer):
                ids = [bos, *ids]
        else:
            ids, size = prompt, owl.config.llm.vocab_size
            if not all(0 <= id < size for id in ids):
                raise ApiError(400, f"prompt has ids outside 0 to {size - 1}", param="prompt")
        if not ids:
            raise ApiError(400, "the prompt is empty; expected at least one token", param="prompt")
        return ChatPrompt(np.asarray(ids, np.int32))

    def _job(
        self,
        asked: Common,
        prompts: Sequence[ChatPrompt],
        adapter: str | None,
        wanted: int | None,
        num_logprobs: int | None,
        param: str,
    ) -> Job:
        limits, count = self.settings.limits, asked.n or 1
        sampling = self._sampling(asked)
        constraints = self._constraints(asked, count * len(prompts))
        seed = secrets.randbelow(_SEEDS) if asked.seed is None else asked.seed % _SEEDS
        seconds = limits.request_seconds
        end = None if seconds is None else time.monotonic() + seconds
        requests: list[Request] = []
        for prompt in prompts:
            room = self._room(prompt, param)
            most = min(room, wanted or room, limits.new_tokens or room)
            for index in range(count):
                requests.append(
                    Request(
                        prompt,
                        max_new_tokens=most,
                        sampling=sampling,
                        seed=(seed + index) % _SEEDS,
                        min_new_tokens=min(asked.min_tokens or 0, most),
                        end_ids=() if asked.ignore_eos else self.model.owl.end_ids,
                        num_logprobs=num_logprobs,
                        constraint=constraints[len(requests)],
                        adapter=adapter,
                        deadline=end,
                    )
                )
        stops = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
        options = asked.stream_options
        return Job(
            model=adapter or self.model.name,
            requests=requests,
            prompt_tokens=sum(len(prompt.input_ids) for prompt in prompts),
            stops=stops,
            start="",
            min_tokens=asked.min_tokens or 0,
            stream=bool(asked.stream),
            include_usage=bool(options and options.include_usage),
            continuous_usage=bool(options and options.continuous_usage_stats),
        )

    def _room(self, prompt: ChatPrompt, param: str) -> int:
        try:
            return self.model.engine.max_new_tokens(prompt)
        except UserError as error:
            raise api_error(error, param) from error

    def _sampling(self, asked: Common) -> Sampling:
        heat = self.settings.temperature if asked.temperature is None else asked.temperature
        top_k = asked.top_k if asked.top_k and asked.top_k > 0 else None
        if asked.top_p == 0:  # OpenAI's range includes it; only the likeliest token is left
            top_k = 1
        try:
            return Sampling.of(
                heat,
                top_k,
                asked.top_p or None,
                1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
                asked.presence_penalty or 0.0,
                asked.frequency_penalty or 0.0,
            )
        except UserError as error:
            raise api_error(error, str(error).partition(" ")[0]) from error

    def _constraints(self, asked: Common, count: int) -> list[Constraint | None]:
        """One for each answer, by response_format."""
        match asked.response_format:
            case JsonObjectFormat():
                schema = dict(ANY_OBJECT)
            case JsonSchemaFormat(json_schema=named):
                schema = named.schema_
            case _:
                return [None] * count
        if asked.ignore_eos or asked.min_tokens:
            raise ApiError(
                400,
                "response_format cannot be combined with ignore_eos or min_tokens: JSON ends where "
                "it is complete",
                param="response_format",
            )
        try:
            first = self.model.grammars.of_schema(schema)
        except UserError as error:
            raise api_error(error, "response_format") from error
        return [first, *(first.copy() for _ in range(count - 1))]


def _prompts(prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """One text, one list of ids, or a list of either."""
    if isinstance(prompt, str):
        return [prompt]
    texts = [each for each in prompt if isinstance(each, str)]
    ids = [each for each in prompt if isinstance(each, int)]
    lists = [each for each in prompt if isinstance(each, list)]
    if not prompt or max(len(texts), len(ids), len(lists)) < len(prompt):
        raise ApiError(
            400,
            "prompt mixes texts and ids, or is an empty list; expected one kind",
            param="prompt",
        )
    return [ids] if ids else [*texts, *lists]
