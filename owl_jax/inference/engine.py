"""Continuous batching: requests share the device, each in a row of the inference core.

One thread owns the device. In each turn it takes cancelled requests out, gives free rows to waiting
requests, prefills pieces of prompts after encoding the media in them, and dispatches the next chunk
of tokens for all active rows before it fetches the last chunk's. A row that has ended keeps
its keys and values until another request needs the row, so the next turn of a conversation computes
only what is new.

Letters: L tokens, B rows, S slots of a row, W rows that are decoded, n tokens of a medium, D width.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import jax
import numpy as np

from owl_jax.errors import UserError
from owl_jax.inference import core
from owl_jax.inference.api import Owl, PromptTooLong
from owl_jax.inference.arguments import NUM_FRAMES
from owl_jax.inference.device_rows import PIECES, DeviceRows, Piece
from owl_jax.inference.media_cache import MediaCache
from owl_jax.inference.prefix import TokenRun
from owl_jax.inference.requests import (
    ChatPrompt,
    Finished,
    FinishReason,
    Listener,
    QueueFull,
    Request,
    Stats,
    Ticket,
    Token,
    Tokens,
    check_request,
)
from owl_jax.inference.rows import Job, Row, choose_row, reusable_tokens
from owl_jax.inference.sampling import END_IDS

_STEPS = 8  # tokens of a row between two returns to the host
_STEPS_WHILE_PREFILLING = 4  # so that a prompt is read sooner
_MOST_PIECES = 8  # of the longest length, of prompts between two chunks of tokens
_MEDIA_BYTES = 2**30
_MOST_FAILURES = 3  # of the device in a row; more than one request may have caused
_CLOSE_SECONDS = 60  # longer than any chunk takes


@dataclass(eq=False)
class _Chunk:
    """Tokens that are being computed; column i is of jobs[i]."""

    found: core.NewTokens
    jobs: Sequence[Job | None]


class Engine:
    """Answers requests from any thread.

    num_rows: requests that are answered at the same time. row_length: tokens of a prompt and its
      answer, at most. adapters: the names that requests may give.
    """

    def __init__(
        self,
        owl: Owl,
        *,
        num_rows: int | None = None,
        row_length: int | None = None,
        max_waiting: int = 256,
        frames: Sequence[int] = (NUM_FRAMES,),
        media_cache_bytes: int = _MEDIA_BYTES,
    ):
        """Allocates the cache; `warm_up` compiles, `start` begins to answer.

        Args:
          num_rows: by default as many as the device's memory has room for, 8 on a CPU.
          row_length: by default the model's maximum, but at most 2,048; rounded up to a multiple of
            64.
          max_waiting: requests in the queue, at most.
          frames: the numbers of frames that a video may have; each is compiled.
          media_cache_bytes: of the vectors of media that are kept on the device.

        Raises UserError for a num_rows that the mesh does not divide, and for a model with more end
        ids than a row has room for.
        """
        if (count := len(owl.end_ids)) > END_IDS:
            raise UserError(
                f"the model has {count} tokens that end an answer; expected at most {END_IDS}: "
                "remove some from eos_token_id in its generation_config.json"
            )
        self._config = owl.config
        reserved = 0 if owl.config.text_only else media_cache_bytes
        self._device = DeviceRows(owl, num_rows, row_length, reserved)
        self.num_rows, self.row_length = self._device.count, self._device.length
        self.frames, self.adapters = tuple(frames), owl.adapters
        self._longest = min(self.row_length, owl.config.llm.max_length)
        self._max_waiting = max_waiting
        self._media = MediaCache(media_cache_bytes, self._device.encode)
        self._rows = [Row(index) for index in range(self.num_rows)]
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Ticket, TokenRun]] = deque()
        self._prefilling: deque[Job] = deque()
        self._unfetched: deque[_Chunk] = deque()
        self._thread: threading.Thread | None = None
        self._is_closing = self._is_draining = False
        self._turn = 0
        self._heard = time.monotonic()  # from the device
        self._failures = 0  # of the device, since an answer was completed
        self._counts = dict.fromkeys(("prompt", "cached", "new", "finished"), 0)

    # What callers use, from any thread.

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Queues a request. The listener gets Tokens events and at last one Finished.

        Raises QueueFull, PromptTooLong, and UserError for a request that cannot be answered.
        """
        self.max_new_tokens(request.prompt)
        check_request(request, self._config, self.adapters, self.frames)
        run = TokenRun.of(request.prompt, self._config.num_tokens, request.adapter)
        ticket = Ticket(request, listener)
        with self._changed:
            if self._is_closing or self._is_draining:
                raise QueueFull("the engine is shutting down")
            if len(self._waiting) >= self._max_waiting:
                raise QueueFull(
                    f"{len(self._waiting)} requests are waiting, the maximum; try again later"
                )
            if not self._has_work():
                self._heard = time.monotonic()
            self._waiting.append((ticket, run))
            self._changed.notify()
        return ticket

    def max_new_tokens(self, prompt: ChatPrompt) -> int:
        """The new tokens for which a row has room after this prompt.

        Raises PromptTooLong if there is no room.
        """
        length = len(prompt.input_ids)
        if length >= self._longest:
            raise PromptTooLong(
                f"the prompt has {length} tokens and leaves no room for an answer: a row takes "
                f"{self._longest} tokens; shorten the conversation"
            )
        return self._longest - length

    def stats(self) -> Stats:
        """What the engine is doing."""
        with self._changed:
            # The engine's thread may end a job meanwhile.
            running = [job for row in self._rows if (job := row.job) is not None]
            used = sum(job.filled + len(job.tokens) for job in running)
            return Stats(
                running=len(running),
                waiting=len(self._waiting),
                cache_usage=used / (self.num_rows * self.row_length),
                prompt_tokens=self._counts["prompt"],
                cached_prompt_tokens=self._counts["cached"],
                new_tokens=self._counts["new"],
                finished=self._counts["finished"],
                encoded_media=self._media.num_encoded,
                cached_media=self._media.num_found,
                compilations=self._device.compilations,
            )

    def problem(self, stall_seconds: float) -> str | None:
        """Why it cannot answer, as far as it knows; None if it can.

        stall_seconds: the time without a result after which the device is taken to hang.
        """
        if self._thread is not None and not self._thread.is_alive():
            return "the engine has ended"
        if self._failures >= _MOST_FAILURES:
            return f"the last {self._failures} attempts to compute failed"
        seconds = time.monotonic() - self._heard
        if self._thread is not None and seconds > stall_seconds and self._has_work():
            return f"the device has not answered for {seconds:.0f} seconds"
        return None

    def start(self) -> None:
        """Starts the thread that owns the device."""
        assert self._thread is None
        self._thread = threading.Thread(target=self._work, name="owl-engine", daemon=True)
        self._thread.start()

    def drain(self, timeout: float | None = None) -> bool:
        """Refuses new requests and waits for the others. Returns whether all have finished."""
        with self._changed:
            self._is_draining = True
            return self._changed.wait_for(lambda: not self._has_work(), timeout)

    def close(self) -> None:
        """Ends all requests with reason "cancelled", and the thread, unless the device hangs."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is None:
            self._cancel_all()
        else:
            self._thread.join(_CLOSE_SECONDS)

    def __enter__(self) -> Engine:
        self.warm_up()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warm_up(self) -> None:
        """Compiles every program that requests can need. Call it before `start`."""
        self._device.warm_up(() if self._config.text_only else self.frames)

    # The engine's thread.

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                try:
                    self._take_turn()
                except Exception as error:  # the device's state may be lost
                    self._fail(error)
                with self._changed:
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._is_closing = True
            self._cancel_all()

    def _wait_for_work(self) -> bool:
        """Returns whether there is some; False if the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_work() or self._is_closing)
            return not self._is_closing

    def _cancel_all(self) -> None:
        for job in [row.job for row in self._rows if row.job is not None]:
            self._finish(job, "cancelled")
        while self._waiting:
            ticket, _ = self._waiting.popleft()
            self._tell(ticket, Finished("cancelled"))
        with self._changed:
            self._unfetched.clear()
            self._changed.notify_all()

    def _has_work(self) -> bool:
        return bool(
            self._waiting or self._unfetched or any(row.job is not None for row in self._rows)
        )

    def _take_turn(self) -> None:
        self._turn += 1
        self._drop_cancelled()
        self._admit()
        self._prefill()
        active = [row.job for row in self._rows if row.job is not None and row.job.is_active]
        constrained = any(job.request.constraint is not None for job in active)
        if constrained:  # what may come next depends on what came
            self._deliver_all_but(0)
        if active:
            steps = 1 if constrained else _STEPS_WHILE_PREFILLING if self._prefilling else _STEPS
            self._dispatch(active, steps)
        # The newest chunk is computed while the others are delivered.
        self._deliver_all_but(1 if active and not constrained else 0)

    def _prefill(self) -> None:
        """Prefills as many tokens of prompts as the longest piece has; more if fewer rows are
        active than have prompts to come.

        Rows that wait for so much lose little, and a few rows decode hardly faster than many.
        """
        active = sum(row.job is not None and row.job.is_active for row in self._rows)
        left = PIECES[-1] * max(1, min(len(self._prefilling) - active, _MOST_PIECES))
        while self._prefilling and left > 0:
            jobs = self._next_together()
            left -= len(jobs) * self._piece_length(jobs[0])
            self._advance(jobs)
            while self._unfetched and _is_ready(self._unfetched[0].found.ids):
                self._deliver(self._unfetched.popleft())

    def _drop_cancelled(self) -> None:
        now = time.monotonic()

        def reason(ticket: Ticket) -> FinishReason | None:
            if ticket.is_cancelled:
                return "cancelled"
            deadline = ticket.request.deadline
            return "deadline" if deadline is not None and now >= deadline else None

        with self._changed:
            ended = [(ticket, why) for ticket, _ in self._waiting if (why := reason(ticket))]
            gone = {id(ticket) for ticket, _ in ended}
            self._waiting = deque(each for each in self._waiting if id(each[0]) not in gone)
        for ticket, why in ended:
            self._tell(ticket, Finished(why))
        for row in self._rows:
            if row.job is not None and (why := reason(row.job.ticket)):
                self._end(row.job, why)

    def _admit(self) -> None:
        """Gives free rows to waiting requests, in order of arrival.

        A prompt whose beginning is being computed for another one waits for it. Those behind it do
        not.
        """
        with self._changed:
            oldest = [*islice(self._waiting, self.num_rows)]
        for ticket, run in oldest:
            if all(row.job is not None for row in self._rows):
                return
            source, row, cached = choose_row(self._rows, run)
            if any(reusable_tokens(run, job.run) > cached for job in self._prefilling):
                continue
            job = Job(ticket, run, row, cached, cached)
            with self._changed:  # `drain` sees the request in the queue or in the row
                self._waiting.remove((ticket, run))
                row.job, row.used = job, self._turn
            if source is not row:
                self._device.copy(source.index, row.index, cached)
            row.run = replace(run, ids=run.ids[:cached])
            self._prefilling.append(job)
            self._counts["prompt"] += len(run.ids)
            self._counts["cached"] += cached

    def _next_together(self) -> Sequence[Job]:
        """The first prompt, with others whose next pieces are read in the same call if there are
        enough of them."""
        first = self._prefilling[0]
        length = self._piece_length(first)
        alike = [
            job
            for job in self._prefilling
            if self._piece_length(job) == length and bool(job.filled) == bool(first.filled)
        ]
        most = self._device.most_together(length)
        return alike[:most] if len(alike) >= most else [first]

    def _piece_length(self, job: Job) -> int:
        """The padded length of the next piece of a prompt."""
        fitting = [length for length in PIECES if job.filled + length <= self.row_length]
        return next((n for n in fitting if n >= len(job.run.ids) - job.filled), fitting[-1])

    def _advance(self, jobs: Sequence[Job]) -> None:
        """Prefills the next pieces of prompts. An error ends the requests that it concerns."""
        pieces = {}
        for job in jobs:
            try:
                pieces[job] = self._piece(job)
            except Exception as error:
                self._failures += 1
                self._end(job, "error", error)
        if len(pieces) < len(jobs):
            return  # the others are read in another call
        try:
            logits = self._device.prefill([*pieces.values()])
        except Exception as error:
            self._failures += 1
            for job in jobs:
                self._end(job, "error", error)
            return
        self._heard = time.monotonic()
        for job, last in zip(jobs, logits, strict=True):
            job.filled += pieces[job].count
            job.row.run = replace(job.run, ids=job.run.ids[: job.filled])
            if job.filled == len(job.run.ids):
                self._begin(job, last)

    def _piece(self, job: Job) -> Piece:
        """The next piece of a prompt, after its media have been encoded."""
        start, length = job.filled, self._piece_length(job)
        ids = job.run.ids[start : start + length]
        media = self._media_of(job, start, start + len(ids))
        padded = np.pad(ids, (0, length - len(ids)))
        return Piece(job.row.index, padded, len(ids), start, media, self._adapter(job))

    def _begin(self, job: Job, logits: jax.Array) -> None:
        """Samples the first token of a request whose prompt is in the row."""
        try:
            found = self._device.begin(
                *(job.row.index, job.run.ids, job.request),
                *(self._limit(job), self._adapter(job), logits),
            )
        except Exception as error:
            self._failures += 1
            self._end(job, "error", error)
            return
        self._prefilling.remove(job)
        job.is_active = True
        self._unfetched.append(_Chunk(found, [job]))

    def _media_of(self, job: Job, start: int, end: int) -> list[tuple[jax.Array, int]]:
        """The vectors of the media with tokens in [start, end), and where they begin after `start`.

        A medium of two pieces is encoded once, even if the cache is too small for it.
        """
        found, split = [], job.split
        job.split = None
        for span in job.spans(start, end):
            if split is not None and split[0] is span:
                vectors = split[1]
            else:
                vectors = self._media.vectors(span.key, span.pixels)
            if span.start + span.length > end:
                job.split = span, vectors
            found.append((vectors, span.start - start))
        return found

    def _dispatch(self, active: Sequence[Job], steps: int) -> None:
        """Starts the next chunk of tokens."""
        wants = any(job.request.num_logprobs is not None for job in active)
        found, rows = self._device.decode([job.row.index for job in active], steps, wants)
        self._unfetched.append(_Chunk(found, [self._rows[row].job for row in rows]))

    def _deliver_all_but(self, keep: int) -> None:
        while len(self._unfetched) > keep:
            self._deliver(self._unfetched.popleft())

    def _deliver(self, chunk: _Chunk) -> None:
        """Fetches a chunk and tells each request its tokens."""
        found = jax.device_get(chunk.found)
        self._heard = time.monotonic()
        for column, job in enumerate(chunk.jobs):
            if job is None or job.is_finished:
                continue
            ids = found.ids[:, column]
            count = int((ids >= 0).sum())
            if not count:
                continue
            tokens = [self._token(job, found, step, column) for step in range(count)]
            job.tokens += [token.id for token in tokens]
            self._counts["new"] += count
            self._tell(job.ticket, Tokens(tokens))
            request = job.request
            if job.tokens[-1] in request.end_ids:
                self._finish(job, "stop")
            elif len(job.tokens) >= self._limit(job):
                self._finish(job, "length")
            elif request.constraint is not None:
                try:
                    request.constraint.accept(job.tokens[-1])
                    self._device.allow(job.row.index, request.constraint.allowed())
                except Exception as error:
                    self._end(job, "error", error)

    def _token(self, job: Job, found: Any, step: int, column: int) -> Token:
        wanted = job.request.num_logprobs
        id = int(found.ids[step, column])
        if wanted is None:
            return Token(id)
        ids, values = found.top_ids[step, column], found.top_logprobs[step, column]
        top = list(zip(ids[:wanted].tolist(), values[:wanted].tolist(), strict=True))
        return Token(id, float(found.logprobs[step, column]), top)

    def _limit(self, job: Job) -> int:
        return min(job.request.max_new_tokens, self._longest - len(job.run.ids))

    def _end(self, job: Job, reason: FinishReason, error: Exception | None = None) -> None:
        """Ends a request that the device still works on."""
        if job in self._prefilling:
            self._prefilling.remove(job)
        row = job.row
        self._finish(job, reason, error)
        self._device.release(row.index, len(row.run.ids))

    def _finish(self, job: Job, reason: FinishReason, error: Exception | None = None) -> None:
        """Frees the row and tells the request. The newest token is not in the cache."""
        job.is_finished = True
        if job.is_active:
            ids = np.concatenate([job.run.ids, np.asarray(job.tokens[:-1], np.int32)])
            job.row.run = replace(job.run, ids=ids)
        job.row.run = job.row.run.without_pixels()
        job.row.job, job.row.used = None, self._turn
        self._counts["finished"] += 1
        if reason in ("stop", "length"):
            self._failures = 0
        self._tell(job.ticket, Finished(reason, job.cached, error))

    def _fail(self, error: Exception) -> None:
        """Ends all requests in rows, whose keys and values may be lost, and begins anew."""
        self._failures += 1
        self._unfetched.clear()
        self._prefilling.clear()
        for row in self._rows:
            if row.job is not None:
                self._finish(row.job, "error", error)
            row.run = TokenRun(np.zeros(0, np.int32))
        self._media.clear()
        try:
            self._device.reset()
        except Exception:  # the next request fails, which tries again
            logging.getLogger(__name__).exception("the rows could not be allocated again")

    def _tell(self, ticket: Ticket, event: Tokens | Finished) -> None:
        try:
            ticket.listener(event)
        except Exception:
            # A listener whose loop has closed ends its own request only.
            ticket.cancel()

    def _adapter(self, job: Job) -> int:
        """The number of a request's adapter, from 1 on; 0: the base model."""
        name = job.request.adapter
        return 0 if name is None else 1 + self.adapters.index(name)


def _is_ready(array: Any) -> bool:
    """Whether an array has been computed, so that fetching it does not wait."""
    return bool(array.is_ready())
