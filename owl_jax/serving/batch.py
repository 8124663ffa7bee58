"""Answers a file of requests in OpenAI's batch form: JSON Lines in, JSON Lines out.

A line of the input is {"custom_id", "method": "POST", "url", "body"}. Its answer is {"id",
"custom_id", "response": {"status_code", "request_id", "body"}, "error": null}; a request that is
refused gets the status and the body that the server would send. Answers are appended as they come,
so a run that is killed continues where it stopped.
"""

from __future__ import annotations

import fcntl
import os
import queue
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
from msgspec import Struct

from owl_jax.errors import UserError, shown
from owl_jax.files import write_whole
from owl_jax.inference.requests import Event, QueueFull, Ticket, Tokens
from owl_jax.serving.answer import Answer
from owl_jax.serving.errors import ApiError, internal_error
from owl_jax.serving.forms import ChatForm, CompletionForm, Form, usage_of
from owl_jax.serving.job import Job, Planner
from owl_jax.text.tokenizer import Tokenizer

_IN_FLIGHT = 2  # requests in preparation or in the engine, for each row


class _Line(Struct, forbid_unknown_fields=True):
    """A request of the input."""

    custom_id: str
    body: msgspec.Raw
    url: Literal["/v1/chat/completions", "/v1/completions"]
    method: Literal["POST"] = "POST"


class _Response(Struct):
    status_code: int
    body: dict[str, Any]


class _Answered(Struct):
    """The part of an output line that says what is done."""

    custom_id: str
    response: _Response


_Plan = Callable[[Planner, bytes], Job]
_URLS: Mapping[str, tuple[_Plan, Callable[[Job, Tokenizer], Form]]] = {
    "/v1/chat/completions": (Planner.chat, ChatForm),
    "/v1/completions": (Planner.completion, CompletionForm),
}


@dataclass
class Progress:
    """What a run has done. answered: lines with an answer now; earlier: by runs before this one;
    total: lines of this process."""

    total: int
    earlier: int
    answered: int = 0
    new_tokens: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


@dataclass(eq=False)
class _Running:
    """A request in preparation or in the engine."""

    line: _Line
    job: Job | None = None
    form: Form | None = None
    answers: list[Answer] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)
    unfinished: int = 0
    failure: ApiError | None = None
    is_over: bool = False


_Events = queue.SimpleQueue[tuple[_Running, int, Event | Exception | None]]


class Batch:
    """One process's part of a file of requests, and the file of its answers."""

    def __init__(self, source: Path, target: Path, shard_index: int, num_shards: int):
        """Reads both files and checks every line.

        Line i of the source belongs to the process i mod num_shards. Requests whose answer in the
        target has a status of 500 or more are asked again.

        Raises UserError, with the line, for a source that is not a file of requests, and for a
        target with answers to other requests, or that another process writes.
        """
        self._target = target
        done = _answered(target)
        known: set[str] = set()
        self._left: deque[_Line] = deque()
        total = 0
        for number, line in _requests(source):
            if line.custom_id in known:
                raise UserError(
                    f"{source}: line {number}: custom_id {shown(line.custom_id)} is there twice; "
                    "give each request its own"
                )
            known.add(line.custom_id)
            if (number - 1) % num_shards != shard_index:
                continue
            total += 1
            if line.custom_id not in done:
                self._left.append(line)
        if others := done - known:
            raise UserError(
                f"{target} has answers to {len(others)} requests that are not in {source}, such as "
                f"{shown(min(others))}; give another --output"
            )
        self.progress = Progress(total, total - len(self._left))

    def run(self, planner: Planner, threads: int, tell: Callable[[Progress], None]) -> Progress:
        """Answers what is left. tell: called after each answer."""
        most = _IN_FLIGHT * planner.model.engine.num_rows
        events: _Events = queue.SimpleQueue()
        running = 0
        with (
            _locked(self._target) as file,
            ThreadPoolExecutor(threads, thread_name_prefix="prepare") as pool,
        ):
            while self._left or running:
                while self._left and running < most:
                    request = _Running(self._left.popleft())
                    work = pool.submit(_prepare, planner, request, events)
                    work.add_done_callback(partial(_report, request, events))
                    running += 1
                request, index, event = events.get()
                if self._take(request, index, event):
                    running -= 1
                    self._write(file, request)
                    tell(self.progress)
        return self.progress

    def _take(self, request: _Running, index: int, event: Event | Exception | None) -> bool:
        """Takes an event of a request. Returns whether it was the last."""
        if request.is_over:
            return False
        if event is None:  # prepared; its answers may have come already
            request.unfinished -= 1
        elif isinstance(event, Exception):
            request.failure = _as_api_error(event, request.line.custom_id)
            request.unfinished = 0
            for ticket in request.tickets:
                ticket.cancel()
        elif isinstance(event, Tokens):
            request.answers[index].add(event.tokens)
            if request.answers[index].reason and index < len(request.tickets):  # a stop text
                request.tickets[index].cancel()
        else:
            request.unfinished -= 1
            try:
                request.answers[index].finish(event, request.line.custom_id)
            except ApiError as error:
                request.failure = error
        request.is_over = request.unfinished == 0
        return request.is_over

    def _write(self, file: BinaryIO, request: _Running) -> None:
        if request.failure is not None:
            status, body = request.failure.status, request.failure.body
        else:
            assert request.job is not None and request.form is not None
            usage = usage_of(request.job, request.answers)
            status, body = 200, request.form.whole(request.answers, usage)
            self.progress.new_tokens += usage["completion_tokens"]
        number = secrets.token_hex(12)
        line = {
            "id": f"batch_req_{number}",
            "custom_id": request.line.custom_id,
            "response": {"status_code": status, "request_id": f"req_{number}", "body": body},
            "error": None,
        }
        file.write(msgspec.json.encode(line) + b"\n")
        file.flush()
        self.progress.answered += 1
        self.progress.statuses[status] += 1


def _prepare(
    planner: Planner,
    request: _Running,
    events: _Events,
) -> None:
    """In the pool: everything up to the engine's queue."""
    plan, make_form = _URLS[request.line.url]
    job = plan(planner, bytes(request.line.body))
    if job.stream:
        raise ApiError(400, "stream is not possible in a file of requests", param="stream")
    tokenizer = planner.model.owl.tokenizer
    request.job, request.form = job, make_form(job, tokenizer)
    request.answers = [Answer(job, index, tokenizer) for index in range(len(job.requests))]
    request.unfinished = len(job.requests) + 1
    for index, each in enumerate(job.requests):
        listener = partial(_listen, request, index, events)
        request.tickets.append(planner.model.engine.submit(each, listener))


def _listen(
    request: _Running,
    index: int,
    events: _Events,
    event: Event,
) -> None:
    events.put((request, index, event))


def _report(
    request: _Running,
    events: _Events,
    work: Future[None],
) -> None:
    error = work.exception()
    events.put((request, 0, error if isinstance(error, Exception) else None))


def _as_api_error(error: Exception, custom_id: str) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return ApiError(503, str(error), code="queue_full")
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    return internal_error(custom_id)


def _requests(source: Path) -> Iterator[tuple[int, _Line]]:
    """(line number, request) of each line that is not empty."""
    decoder = msgspec.json.Decoder(_Line)
    with source.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                yield number, decoder.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise UserError(
                    f"{source}: line {number}: {error}; expected "
                    '{"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": '
                    "{...}}"
                ) from None


def _answered(target: Path) -> set[str]:
    """The custom_ids with an answer that stays. An incomplete last line, of a run that was killed,
    is cut off, and so are lines with a status of 500 or more.

    Raises UserError for a file that is no output of this command, or that another process writes.
    """
    if not target.exists():
        return set()
    with _locked(target):  # replacing a file that another process writes would lose its answers
        return _cleaned(target)


def _cleaned(target: Path) -> set[str]:
    """`_answered` of a file that exists and is locked."""
    decoder = msgspec.json.Decoder(_Answered)
    kept, ids = [], set()
    lines = target.read_bytes().split(b"\n")
    for number, text in enumerate(lines[:-1], 1):
        try:
            line = decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{target}: line {number}: {error}; it is no output of this command: give another "
                "--output"
            ) from None
        if line.response.status_code < 500:
            kept.append(text + b"\n")
            ids.add(line.custom_id)
    if len(kept) < len(lines) - 1 or lines[-1]:
        write_whole(target, b"".join(kept).decode())
    return ids


@contextmanager
def _locked(target: Path) -> Iterator[BinaryIO]:
    """The file of answers, which no other process writes at the same time."""
    with target.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), target.stat()):
                raise BlockingIOError  # another process has just replaced it
        except OSError:
            raise UserError(f"{target}: another process is writing it; wait for it") from None
        yield file
