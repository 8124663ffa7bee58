"""Continuous batching: requests share the device, each in a row of the inference core.

One thread owns the device. In each turn it takes cancelled requests out, gives free rows to waiting
requests, encodes one medium or prefills one piece of a prompt, and dispatches the next chunk of
tokens for all active rows before it fetches the last chunk's. A row that has ended keeps its keys
and values until another request needs the row, so the next turn of a conversation computes only
what is new.

Letters: L tokens, B rows, S slots of a row, W rows that are decoded, n tokens of a medium, D width.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from owl_jax.errors import UserError
from owl_jax.inference import core
from owl_jax.inference.api import Owl, PromptTooLong
from owl_jax.inference.arguments import NUM_FRAMES
from owl_jax.inference.media_cache import MediaCache
from owl_jax.inference.prefix import Span, TokenRun
from owl_jax.inference.prompt import BUCKET, Prompt, round_up
from owl_jax.inference.requests import (
    MAX_LOGPROBS,
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
)
from owl_jax.inference.sampling import END_IDS, row_keys
from owl_jax.models.attention.mask import PastTokens
from owl_jax.parallel.sharding import on_mesh

_PIECES = (64, 128, 256, 512)  # lengths of a prefill; multiples of BUCKET
_STEPS = 8  # tokens of a row between two returns to the host
_STEPS_WHILE_WAITING = 4  # so that a prompt is prefilled sooner
_ROW_LENGTH = 2048
_ROWS_ON_CPU = 8
_MEMORY_SHARE = 0.9  # of what the weights leave, for the cache
_MEDIA_BYTES = 2**30


@dataclass
class _Row:
    """A row of the cache: its index, the tokens in it, and when it was last used."""

    index: int
    run: TokenRun = field(default_factory=lambda: TokenRun(np.zeros(0, np.int32)))
    used: int = 0
    job: _Job | None = None


@dataclass
class _Job:
    """A request in progress. filled: tokens of its prompt in the row."""

    ticket: Ticket
    run: TokenRun
    row: _Row
    cached: int = 0
    filled: int = 0
    tokens: list[int] = field(default_factory=list)
    is_active: bool = False
    is_finished: bool = False

    @property
    def request(self) -> Request:
        return self.ticket.request

    def spans(self, start: int, end: int) -> list[Span]:
        """The media with tokens in [start, end)."""
        return [
            span for span in self.run.spans if span.start < end and span.start + span.length > start
        ]


@dataclass
class _Chunk:
    """Tokens that are being computed; column i is of jobs[i]."""

    found: core.NewTokens
    jobs: Sequence[_Job | None]


class Engine:
    """Answers requests from any thread.

    num_rows: requests that are answered at the same time. row_length: tokens of a prompt and its
      answer, at most. adapters: names that requests may give.
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
        """
        self._owl, self._config = owl, owl.config
        self._compute, self._params = owl.compiled_form
        longest = self._config.llm.max_length
        self.row_length = round_up(min(row_length or _ROW_LENGTH, longest))
        self.num_rows = num_rows or self._rows_in_memory()
        self.frames = tuple(frames)
        self.adapters: tuple[str, ...] = ()
        self._longest = min(self.row_length, longest)
        self._most_logprobs = min(MAX_LOGPROBS, self._config.llm.vocab_size)
        self._max_waiting = max_waiting
        self._media = MediaCache(media_cache_bytes, self._encode)
        self._rows = [_Row(index) for index in range(self.num_rows)]
        self._empty_canvases: dict[int, jax.Array] = {}
        self._state = self._empty_state()
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Ticket, TokenRun]] = deque()
        self._prefilling: deque[_Job] = deque()
        self._unfetched: deque[_Chunk] = deque()
        self._thread: threading.Thread | None = None
        self._is_closing = self._is_draining = False
        self._turn = 0
        self._counts = dict.fromkeys(("prompt", "cached", "new", "finished"), 0)
        self._compiled_in_warm_up = 0

    # What callers use, from any thread.

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Queues a request. The listener gets Tokens events and at last one Finished.

        Raises QueueFull, PromptTooLong, and UserError for a request that cannot be answered.
        """
        self.max_new_tokens(request.prompt)
        run = self._checked(request)
        ticket = Ticket(request, listener)
        with self._changed:
            if self._is_closing or self._is_draining:
                raise QueueFull("the engine is shutting down")
            if len(self._waiting) >= self._max_waiting:
                raise QueueFull(
                    f"{len(self._waiting)} requests are waiting, as many as may; try again later"
                )
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
            running = [row for row in self._rows if row.job is not None]
            used = sum(row.job.filled + len(row.job.tokens) for row in running if row.job)
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
                compilations=_compilations.count - self._compiled_in_warm_up,
            )

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
        """Ends all requests with reason "cancelled", and the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Engine:
        self.warm_up()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warm_up(self) -> None:
        """Compiles every program that requests can need. Call it before `start`."""
        _compilations.listen()
        kinds: list[np.ndarray] = []
        if not self._config.text_only:
            size = self._config.image_size
            kinds.append(np.zeros((size, size, 3), np.uint8))
            kinds += [np.zeros((frames, size, size, 3), np.uint8) for frames in self.frames]
        vectors = [self._encode(pixels) for pixels in kinds]
        ticket = Ticket(Request(ChatPrompt(np.zeros(1, np.int32)), 1), lambda event: None)
        job = _Job(ticket, TokenRun(np.zeros(1, np.int32)), self._rows[0])
        for length in _PIECES:
            if length > self.row_length:
                continue
            ids = np.zeros(length, np.int32)
            for media in self._canvases(length, vectors):
                for start in (0, BUCKET):
                    if start + length > self.row_length and start:
                        continue
                    prefilled = self._prefill(ids, media, 0, start)
                    self._insert(prefilled, 0, start, length)
        self._begin(job, prefilled.logits, length=1)
        self._on_rows(core.copy, *_numbers(0, self.num_rows - 1, 0), keeps_state=True)
        self._release(self._rows[0], 0)
        self._allow(0, np.full(-(-self._config.llm.vocab_size // 32), 2**32 - 1, np.uint32))
        for width in self._widths():
            which = None if width is None else np.arange(width, dtype=np.int32)
            self._decode(1, which, None)
        self._decode(1, None, self._most_logprobs)
        jax.block_until_ready(self._state)
        self._state = self._empty_state()
        self._compiled_in_warm_up = _compilations.count

    # The engine's thread.

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._has_work() or self._is_closing)
                if self._is_closing:
                    break
            try:
                self._take_turn()
            except Exception as error:  # the device's state may be lost
                self._fail(error)
            with self._changed:
                self._changed.notify_all()
        for job in [row.job for row in self._rows if row.job is not None]:
            self._finish(job, "cancelled")
        while self._waiting:
            ticket, _ = self._waiting.popleft()
            self._tell(ticket, Finished("cancelled"))

    def _has_work(self) -> bool:
        return bool(
            self._waiting or self._unfetched or any(row.job is not None for row in self._rows)
        )

    def _take_turn(self) -> None:
        self._turn += 1
        self._drop_cancelled()
        self._admit()
        if self._prefilling:
            job = self._prefilling[0]
            try:
                self._advance(job)
            except Exception as error:
                self._end(job, "error", error)
        active = [row.job for row in self._rows if row.job is not None and row.job.is_active]
        constrained = any(job.request.constraint is not None for job in active)
        if constrained:  # what may come next depends on what came
            self._deliver_all_but(0)
        if active:
            waits = bool(self._prefilling or self._waiting)
            steps = 1 if constrained else _STEPS_WHILE_WAITING if waits else _STEPS
            self._dispatch(active, steps)
        # The newest chunk is computed while the others are delivered.
        self._deliver_all_but(1 if active and not constrained else 0)

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
        """Gives free rows to waiting requests, in order of arrival."""
        while self._waiting and any(row.job is None for row in self._rows):
            ticket, run = self._waiting[0]
            held = max(_usable(run, row.run) for row in self._rows)
            if any(_usable(run, job.run) > held for job in self._prefilling):
                return  # a prompt that begins like this one is being computed
            with self._changed:
                self._waiting.popleft()
            row, cached = self._choose_row(run)
            job = _Job(ticket, run, row, cached, cached)
            row.job, row.used = job, self._turn
            row.run = replace(run, ids=run.ids[:cached])
            self._prefilling.append(job)
            self._counts["prompt"] += len(run.ids)
            self._counts["cached"] += cached

    def _choose_row(self, run: TokenRun) -> tuple[_Row, int]:
        """A free row, and how many of the prompt's tokens it holds afterwards."""
        free = [row for row in self._rows if row.job is None]
        oldest = min(free, key=lambda row: row.used)
        best = max(self._rows, key=lambda row: (_usable(run, row.run), row.job is None))
        cached = _usable(run, best.run)
        if not cached:
            return oldest, 0
        # Another conversation may go on from tokens that a row would lose.
        if best.job is None and (best is oldest or 2 * cached >= len(best.run.ids)):
            return best, cached
        self._on_rows(core.copy, *_numbers(best.index, oldest.index, cached), keeps_state=True)
        return oldest, cached

    def _advance(self, job: _Job) -> None:
        """Encodes the next medium of a prompt, or prefills its next piece."""
        ids, start = job.run.ids, job.filled
        remaining = len(ids) - start
        fitting = [length for length in _PIECES if start + length <= self.row_length]
        length = next((n for n in fitting if n >= remaining), fitting[-1])
        count = min(length, remaining)
        media = self._canvas(job, start, length, count)
        piece = np.zeros(length, np.int32)
        piece[:count] = ids[start : start + count]
        prefilled = self._prefill(piece, media, job.row.index, start, count)
        self._insert(prefilled, job.row.index, start, count)
        job.filled += count
        job.row.run = replace(job.run, ids=ids[: job.filled])
        if job.filled == len(ids):
            self._prefilling.popleft()
            self._begin(job, prefilled.logits)

    def _canvas(self, job: _Job, start: int, length: int, count: int) -> jax.Array | None:
        """[1, L, D]: the vectors of a piece's media tokens in their places."""
        if self._config.text_only:
            return None
        spans = job.spans(start, start + count)
        if not spans and self._config.llm.USES_MODALITY:
            return None
        canvas = self._empty_canvas(length)
        for span in spans:
            vectors = self._media.vectors(span.key, span.pixels)
            canvas = _put_on(canvas, vectors, *_numbers(span.start - start))
        return canvas

    def _canvases(self, length: int, vectors: Sequence[jax.Array]) -> list[jax.Array | None]:
        """The forms of `_canvas`, for the warm-up."""
        if self._config.text_only:
            return [None]
        canvas = self._empty_canvas(length)
        for each in vectors:
            canvas = _put_on(canvas, each, *_numbers(0))
        return [canvas, None] if self._config.llm.USES_MODALITY else [canvas]

    def _dispatch(self, active: Sequence[_Job], steps: int) -> None:
        """Starts the next chunk of tokens."""
        jobs: list[_Job | None] = [row.job for row in self._rows]
        which = None
        wants = any(job.request.num_logprobs is not None for job in active)
        width = next((w for w in self._widths() if w is None or w >= len(active)), None)
        if width is not None and not wants:
            others = [row for row in self._rows if row.job is None or not row.job.is_active]
            rows = [job.row for job in active] + others[: width - len(active)]
            which = np.asarray([row.index for row in rows], np.int32)
            jobs = [row.job for row in rows]
        found = self._decode(steps, which, self._most_logprobs if wants else None)
        self._unfetched.append(_Chunk(found, jobs))

    def _deliver_all_but(self, newest: int) -> None:
        while len(self._unfetched) > newest:
            self._deliver(self._unfetched.popleft())

    def _deliver(self, chunk: _Chunk) -> None:
        """Fetches a chunk and tells each request its tokens."""
        found = jax.device_get(chunk.found)
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
            if job.tokens[-1] in request.end_ids and len(job.tokens) > request.min_new_tokens:
                self._finish(job, "stop")
            elif len(job.tokens) >= self._limit(job):
                self._finish(job, "length")
            elif request.constraint is not None:
                try:
                    request.constraint.accept(job.tokens[-1])
                    self._allow(job.row.index, request.constraint.allowed())
                except Exception as error:
                    self._end(job, "error", error)

    def _token(self, job: _Job, found: Any, step: int, column: int) -> Token:
        wanted = job.request.num_logprobs
        id = int(found.ids[step, column])
        if wanted is None:
            return Token(id)
        ids, values = found.top_ids[step, column], found.top_logprobs[step, column]
        top = list(zip(ids[:wanted].tolist(), values[:wanted].tolist(), strict=True))
        return Token(id, float(found.logprobs[step, column]), top)

    def _limit(self, job: _Job) -> int:
        return min(job.request.max_new_tokens, self._longest - len(job.run.ids))

    def _end(self, job: _Job, reason: FinishReason, error: Exception | None = None) -> None:
        """Ends a request that the device still works on."""
        if job in self._prefilling:
            self._prefilling.remove(job)
        row = job.row
        self._finish(job, reason, error)
        self._release(row, len(row.run.ids))

    def _finish(self, job: _Job, reason: FinishReason, error: Exception | None = None) -> None:
        """Frees the row and tells the request. The newest token is not in the cache."""
        job.is_finished = True
        if job.is_active:
            ids = np.concatenate([job.run.ids, np.asarray(job.tokens[:-1], np.int32)])
            job.row.run = replace(job.run, ids=ids)
        job.row.job, job.row.used = None, self._turn
        self._counts["finished"] += 1
        self._tell(job.ticket, Finished(reason, job.cached, error))

    def _fail(self, error: Exception) -> None:
        """Ends all requests in rows, whose keys and values may be lost, and begins anew."""
        self._unfetched.clear()
        self._prefilling.clear()
        for row in self._rows:
            if row.job is not None:
                self._finish(row.job, "error", error)
            row.run = TokenRun(np.zeros(0, np.int32))
        self._state = self._empty_state()

    def _tell(self, ticket: Ticket, event: Tokens | Finished) -> None:
        try:
            ticket.listener(event)
        except Exception:
            # A listener whose loop has closed ends its own request only.
            ticket.cancel()

    # Work on the device.

    def _on_rows(self, function: Callable[..., Any], *given: Any, keeps_state: bool = False) -> Any:
        """Runs a program that donates the state."""
        with on_mesh(self._owl.mesh, self.num_rows):
            result = function(self._state, *given)
        if keeps_state:
            self._state = result
            return None
        self._state, found = result
        return found

    def _empty_state(self) -> core.DecodeState:
        with on_mesh(self._owl.mesh, self.num_rows):
            return core.empty_state(
                self._config, self._compute, self._params, self.num_rows, self.row_length
            )

    def _encode(self, pixels: np.ndarray) -> jax.Array:
        """uint8[S, S, 3] or uint8[T, S, S, 3] -> [n, D]."""
        media = pixels[None, None]
        with on_mesh(self._owl.mesh, 1):
            is_video = pixels.ndim == 4
            pair = (None, media) if is_video else (media, None)
            return core.encode(self._config, self._compute, self._params, *pair)[0]

    def _prefill(
        self,
        ids: np.ndarray,
        media: jax.Array | None,
        row: int,
        start: int,
        count: int | None = None,
    ) -> core.Prefilled:
        """Reads a piece of `count` tokens of a row that holds `start` tokens before them."""
        slots = np.arange(len(ids), dtype=np.int32)
        prompt = Prompt(
            input_ids=np.maximum(ids, 0)[None],
            media_index=np.where(ids < 0, slots, -1).astype(np.int32)[None],
            lengths=np.asarray([len(ids) if count is None else count], np.int32),
            media=media,
        )
        past = cache = None
        if start:
            past = PastTokens(*(number[None] for number in _numbers(start, row)))
            cache = self._state.cache
        with on_mesh(self._owl.mesh, 1):
            return core.prefill(self._config, self._compute, self._params, prompt, cache, past)

    def _insert(self, prefilled: core.Prefilled, row: int, start: int, count: int) -> None:
        given = _numbers(row, start, start + count)
        self._on_rows(core.insert, prefilled, *given, keeps_state=True)

    def _begin(self, job: _Job, logits: jax.Array, length: int | None = None) -> None:
        request = job.request
        settings = core.make_rows(
            self._config,
            [request.sampling],
            row_keys(request.seed, 1),
            [request.end_ids],
            [self._limit(job)],
            [request.min_new_tokens],
            [job.run.ids],
            has_allowed=True,
        )
        if request.constraint is not None:
            settings = replace(settings, allowed=request.constraint.allowed()[None])
        row, filled = _numbers(job.row.index, length or len(job.run.ids))
        found = self._on_rows(core.begin, row, filled, logits, settings, self._most_logprobs)
        job.is_active = True
        self._unfetched.append(_Chunk(found, [job]))

    def _release(self, row: _Row, length: int) -> None:
        self._on_rows(core.release, *_numbers(row.index, length), keeps_state=True)

    def _allow(self, row: int, allowed: np.ndarray) -> None:
        self._on_rows(core.allow, *_numbers(row), allowed, keeps_state=True)

    def _decode(
        self, steps: int, which: np.ndarray | None, num_logprobs: int | None
    ) -> core.NewTokens:
        with on_mesh(self._owl.mesh, self.num_rows):
            self._state, found = core.decode_steps(
                self._config,
                self._compute,
                self._params,
                self._state,
                *_numbers(steps),
                which,
                num_logprobs,
            )
        return found

    def _empty_canvas(self, length: int) -> jax.Array:
        """[1, L, D], on the device: one that the compiler placed would need another program."""
        if length not in self._empty_canvases:
            zeros = np.zeros((1, length, self._config.llm.hidden_size), self._compute.dtype)
            device = next(iter(jax.tree.leaves(self._params)[0].devices()))
            mesh = self._owl.mesh
            whole = device if mesh is None else NamedSharding(mesh, PartitionSpec())
            self._empty_canvases[length] = jax.device_put(zeros, whole)
        return self._empty_canvases[length]

    def _widths(self) -> list[int | None]:
        """The numbers of rows that are decoded together: fewer are faster on a CPU only."""
        if jax.default_backend() != "cpu" or self._owl.mesh is not None:
            return [None]
        widths = [2**n for n in range(self.num_rows.bit_length()) if 2**n < self.num_rows]
        return [*widths, None]

    # Checks and sizes.

    def _checked(self, request: Request) -> TokenRun:
        """Raises UserError for a request that cannot be answered."""
        if len(request.end_ids) > END_IDS:
            raise UserError(f"{len(request.end_ids)} end ids; expected at most {END_IDS}")
        if request.adapter is not None and request.adapter not in self.adapters:
            raise UserError(f"no adapter is called {request.adapter!r}")
        if request.num_logprobs is not None and not 0 <= request.num_logprobs <= MAX_LOGPROBS:
            raise UserError(f"num_logprobs is {request.num_logprobs}; expected 0 to {MAX_LOGPROBS}")
        for clip in request.prompt.videos:
            if len(clip) not in self.frames:
                known = ", ".join(map(str, self.frames))
                raise UserError(f"a video of {len(clip)} frames; expected one of {known}")
        return TokenRun.of(request.prompt, self._config.num_tokens, request.adapter)

    def _rows_in_memory(self) -> int:
        """Rows for which the devices have memory."""
        devices = {d for leaf in jax.tree.leaves(self._params) for d in leaf.devices()}
        stats = [device.memory_stats() for device in devices]
        if not all(stats):
            return _ROWS_ON_CPU
        free = sum(each["bytes_limit"] - each["bytes_in_use"] for each in stats)
        llm = self._config.llm
        token = 2 * llm.num_layers * llm.num_kv_heads * llm.head_dim
        row = token * self.row_length * jnp.dtype(self._compute.dtype).itemsize
        return max(1, int(_MEMORY_SHARE * free / row))


def _usable(run: TokenRun, held: TokenRun) -> int:
    """How many tokens of a prompt need not be computed where others are held: a multiple of BUCKET.

    At least the last token is computed, as its logits are needed.
    """
    return min(run.shared(held), len(run.ids) - 1) // BUCKET * BUCKET


@jax.jit
def _put_on(canvas: jax.Array, vectors: jax.Array, at: jax.Array) -> jax.Array:
    """Puts vectors [n, D] on a canvas [1, L, D] from token `at` on, -n <= at <= L: those outside of
    it are left out."""
    n, L = len(vectors), canvas.shape[1]
    wide = jnp.pad(canvas[0], ((n, n), (0, 0)))
    wide = jax.lax.dynamic_update_slice(wide, vectors.astype(wide.dtype), (at + n, 0))
    return wide[None, n : n + L]


def _numbers(*values: int) -> list[np.ndarray]:
    """int32 scalars: Python's numbers would be other types to a compiled program."""
    return [np.asarray(value, np.int32) for value in values]


class _Compilations:
    """Counts the programs that this process compiles."""

    def __init__(self) -> None:
        self.count = 0
        self._is_listening = False

    def listen(self) -> None:
        if not self._is_listening:
            jax.monitoring.register_event_duration_secs_listener(self._heard)
            self._is_listening = True

    def _heard(self, event: str, duration_secs: float, **_: str | int) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


_compilations = _Compilations()
