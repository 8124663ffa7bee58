"""Ways in which a model answers prompts: by the engine, in batches, or by likelihood.

All give a prompt the answer that it gets alone. Each takes prompts as they are ready, and yields
replies as they come.
"""

from __future__ import annotations

import hashlib
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import LETTERS
from owl_jax.inference.api import Owl
from owl_jax.inference.engine import Engine
from owl_jax.inference.generate import Batch, fetched, generate
from owl_jax.inference.likelihood import Likelihood
from owl_jax.inference.prompt import prompt_arrays
from owl_jax.inference.requests import ChatPrompt, Event, Request, Ticket, Tokens
from owl_jax.inference.sampling import Sampling
from owl_jax.inference.text_stream import AnswerText
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.vlm import Params
from owl_jax.parallel.sharding import on_mesh
from owl_jax.text.formats.format import ConversationFormat
from owl_jax.text.tokenizer import Tokenizer

_AHEAD = 2  # prompts that wait for a row, for each row; scored prompts that are not fetched yet


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prompt with its pixels.

    begins: whether the question has begun the answer.
    continuations: see evaluation/prompts.py.
    """

    id: str
    prompt: ChatPrompt
    begins: bool = False
    continuations: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Reply:
    """An answer; losses: of each choice, in nats. failure: why there is no answer."""

    id: str
    text: str = ""
    losses: tuple[float, ...] = ()
    failure: str = ""


# Yields the replies to prompts, in any order.
Respond = Callable[[Iterable[Prepared]], Iterator[Reply]]


@dataclass(frozen=True)
class Texts:
    """Makes text of tokens; end_ids: the tokens that end an answer."""

    tokenizer: Tokenizer
    format: ConversationFormat
    end_ids: tuple[int, ...]

    @staticmethod
    def of(owl: Owl) -> Texts:
        """Those of a model. Raises UserError for one without a usable tokenizer."""
        return Texts(owl.tokenizer, owl.format, owl.end_ids)

    def stream(self, begins: bool) -> AnswerText:
        """Takes the tokens of one answer."""
        start = "" if begins else self.format.answer_start
        return AnswerText(self.tokenizer, self.format.stops, start)


@dataclass(frozen=True)
class Model:
    """Weights in the form that `compute` requires, where they are."""

    config: OwlConfig
    compute: Compute
    params: Params
    mesh: Mesh | None = None

    @staticmethod
    def of(owl: Owl) -> Model:
        """Those of a loaded model."""
        return Model(owl.config, *owl.compiled_form, owl.mesh)


def generate_with_engine(
    engine: Engine, texts: Texts, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
) -> Respond:
    """Answers by an engine that has been started."""
    sampling = Sampling.of(temperature)

    def respond(prompts: Iterable[Prepared]) -> Iterator[Reply]:
        events: queue.SimpleQueue[tuple[_Running, Event]] = queue.SimpleQueue()
        running = 0
        for prepared in prompts:
            request = Request(
                prepared.prompt,
                max_new_tokens,
                sampling,
                seed=_seed_of(prepared.id, seed),
                end_ids=texts.end_ids,
            )
            answer = _Running(prepared.id, texts.stream(prepared.begins), texts.end_ids)
            try:
                answer.ticket = engine.submit(request, partial(_listen, events, answer))
            except UserError as error:
                yield Reply(prepared.id, failure=str(error))
                continue
            running += 1
            while running > _AHEAD * engine.num_rows or not events.empty():
                if reply := _taken(*events.get()):
                    running -= 1
                    yield reply
        while running:
            if reply := _taken(*events.get()):
                running -= 1
                yield reply

    return respond


@dataclass(eq=False)
class _Running:
    """A request in the engine."""

    id: str
    text: AnswerText
    end_ids: tuple[int, ...]
    answer: str = ""
    ticket: Ticket | None = None


def _listen(
    events: queue.SimpleQueue[tuple[_Running, Event]], running: _Running, event: Event
) -> None:
    events.put((running, event))


def _taken(running: _Running, event: Event) -> Reply | None:
    """Takes an event; returns the reply after the last one."""
    text = running.text
    if isinstance(event, Tokens):
        for token in event.tokens:
            if token.id not in running.end_ids and not text.is_stopped:
                running.answer += text.push(token.id)
        if text.is_stopped and running.ticket is not None:
            running.ticket.cancel()
        return None
    if event.reason in ("stop", "length") or text.is_stopped:
        return Reply(running.id, (running.answer + text.finish()).strip())
    if event.error is not None and not isinstance(event.error, UserError):
        raise event.error
    return Reply(running.id, failure=str(event.error or event.reason))


def generate_in_batches(
    model: Model, texts: Texts, max_new_tokens: int, batch_size: int
) -> Respond:
    """Answers greedily, in batches of prompts with equal numbers of media.

    Every process runs the same programs in the same order, so the mesh may have several.
    """

    def respond(prompts: Iterable[Prepared]) -> Iterator[Reply]:
        waiting: dict[tuple[int, int], list[Prepared]] = {}
        started = set()
        for prepared in prompts:
            media = len(prepared.prompt.images), len(prepared.prompt.videos)
            batch = waiting.setdefault(media, [])
            batch.append(prepared)
            if len(batch) == batch_size:
                started.add(media)
                yield from answer(waiting.pop(media))
        for media, batch in waiting.items():
            # A smaller batch would need another compilation.
            size = batch_size if media in started else len(batch)
            yield from answer(batch, size)

    def answer(batch: list[Prepared], size: int = 0) -> Iterator[Reply]:
        filled = (batch * size)[:size] if size else batch
        tokens = _generate(model, filled, texts.end_ids, max_new_tokens)
        for prepared, ids in zip(batch, tokens, strict=False):
            stream = texts.stream(prepared.begins)
            text = ""
            for id in ids:
                if id in texts.end_ids or stream.is_stopped:
                    break
                text += stream.push(int(id))
            yield Reply(prepared.id, (text + stream.finish()).strip())

    return respond


def _generate(
    model: Model, batch: list[Prepared], end_ids: tuple[int, ...], max_new_tokens: int
) -> np.ndarray:
    """int32[B, max_new_tokens]"""
    length = max(len(prepared.prompt.input_ids) for prepared in batch)
    ids, mask = (np.zeros((len(batch), length), np.int32) for _ in range(2))
    for row, prepared in enumerate(batch):
        own = prepared.prompt.input_ids
        ids[row, : len(own)], mask[row, : len(own)] = own, 1
    images = [image for prepared in batch for image in prepared.prompt.images]
    videos = [video for prepared in batch for video in prepared.prompt.videos]
    prompt = prompt_arrays(
        model.config,
        ids,
        mask,
        np.stack(images) if images else None,
        np.stack(videos) if videos else None,
    )
    room = model.config.llm.max_length - length
    if room < 1:
        raise UserError(
            f"a prompt has {length} tokens and leaves no room for an answer; the model's maximum "
            f"is {model.config.llm.max_length}"
        )
    on_device: Callable[[], AbstractContextManager[None]] = partial(on_mesh, model.mesh, len(batch))
    settings = Batch(prompt, min(max_new_tokens, room), Sampling(), 0, end_ids)
    return generate(model.config, model.compute, model.params, settings, on_device)


def choose_by_likelihood(model: Model, is_letter: bool) -> Respond:
    """Answers with the letter of the likeliest choice.

    is_letter: continuations are tokens of which one comes next; otherwise whole choices.
    """
    likelihood = Likelihood(model.config, model.compute, model.params, model.mesh)

    def start(prepared: Prepared) -> jax.Array:
        if is_letter:
            tokens = [token for tokens in prepared.continuations for token in tokens]
            return likelihood.logprobs(prepared.prompt, tokens)
        return likelihood.losses(prepared.prompt, prepared.continuations)

    def finish(prepared: Prepared, found: jax.Array) -> Reply:
        numbers = fetched(found).tolist()
        if is_letter:
            logprobs = iter(numbers)
            numbers = [-max(next(logprobs) for _ in tokens) for tokens in prepared.continuations]
        letter = LETTERS[int(np.argmin(numbers))]
        return Reply(prepared.id, letter, tuple(numbers))

    def respond(prompts: Iterable[Prepared]) -> Iterator[Reply]:
        # The device reads the next prompts while a result is fetched.
        unfetched: deque[tuple[Prepared, Any]] = deque()
        for prepared in prompts:
            try:
                unfetched.append((prepared, start(prepared)))
            except UserError as error:
                yield Reply(prepared.id, failure=str(error))
            if len(unfetched) > _AHEAD:
                yield finish(*unfetched.popleft())
        while unfetched:
            yield finish(*unfetched.popleft())

    return respond


def _seed_of(id: str, seed: int) -> int:
    """The same in every order of the questions."""
    return int.from_bytes(hashlib.sha256(f"{seed} {id}".encode()).digest()[:4])
