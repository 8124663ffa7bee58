"""The rows of the inference core on a device: the programs that the engine runs, and their warm-up.

Letters: P pieces of different prompts, L tokens of a piece, B rows, S slots of a row, W rows that
are decoded, V vocabulary, n tokens of a medium, D width, S image side, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from owl_jax.errors import UserError
from owl_jax.inference import core
from owl_jax.inference.api import Owl
from owl_jax.inference.prompt import BUCKET, Prompt, round_up
from owl_jax.inference.requests import MAX_LOGPROBS, ChatPrompt, Request
from owl_jax.inference.sampling import row_keys
from owl_jax.models.attention.mask import PastTokens
from owl_jax.models.int8_cache import bytes_of_a_head
from owl_jax.parallel.sharding import num_batch_shards, on_mesh

PIECES = (64, 128, 256, 512)  # lengths of a prefill; multiples of BUCKET

# Shorter pieces are read together, up to so many tokens. With that many, computing takes about as
# long as reading the weights on TPUs and GPUs, and a CPU's matmuls run at full speed.
_TOGETHER = 256

_ROW_LENGTH = 2048
_ROWS_ON_CPU = 8
_MEMORY_SHARE = 0.9  # of what the weights leave, for the cache
_CLOSE = 0.9  # to the most rows that may fit; nearer is not worth another compilation
_BYTES_OF_AN_ID = 6  # of core.Rows for each row: in_prompt, in_answer and allowed


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of a prompt, of which row `row` has the first `start` tokens.

    ids: int32[L], negative at media; `count` of them are tokens, the others padding.
    media: vectors [n, D], and the token of the piece from which on they are. Those before the piece
      or after it are left out.
    adapter: the prompt's, 0 for none.
    """

    row: int
    ids: np.ndarray
    count: int
    start: int = 0
    media: Sequence[tuple[jax.Array, int]] = ()
    adapter: int = 0


class DeviceRows:
    """B rows of S slots, for one thread. All arguments of programs are NumPy or on the device, and
    have the types of the warm-up, so that nothing is compiled after it."""

    def __init__(
        self,
        owl: Owl,
        num_rows: int | None = None,
        row_length: int | None = None,
        reserved_bytes: int = 0,
    ):
        """Allocates the cache.

        Args:
          num_rows: by default as many as the devices have memory for, 8 on a CPU; on a mesh a
            multiple of the devices that divide rows among them.
          row_length: S, by default the model's maximum, but at most 2,048; rounded up to a multiple
            of 64.
          reserved_bytes: of each device's memory, which the default of num_rows leaves free.

        Raises UserError for a num_rows that the mesh does not divide: each device would hold all.
        """
        self._mesh, self._config = owl.mesh, owl.config
        self._compute, self._params = owl.compiled_form
        self.length = round_up(min(row_length or _ROW_LENGTH, owl.config.llm.max_length))
        self.max_logprobs = min(MAX_LOGPROBS, owl.config.llm.vocab_size)
        shards = 1 if self._mesh is None else num_batch_shards(self._mesh)
        if num_rows is not None and num_rows % shards:
            raise UserError(
                f"num_rows is {num_rows}; expected a multiple of {shards}, the devices among which "
                "the mesh divides rows (data times fsdp)"
            )
        self.count = num_rows or shards * self._rows_in_memory(shards, reserved_bytes)
        self._canvases: dict[int, jax.Array] = {}
        self._compiled_in_warm_up = 0
        self._state: Any = None  # a core.DecodeState
        self.reset()

    def reset(self) -> None:
        """Frees all rows; what they hold is lost."""
        self._state = None  # the memory has no room for two caches
        with on_mesh(self._mesh, self.count):
            state = core.empty_state(
                self._config, self._compute, self._params, self.count, self.length
            )
        if self._mesh is None:  # arrays that may move to other devices need other programs
            state = jax.device_put(state, self._device())
        self._state = state

    @property
    def compilations(self) -> int:
        """Programs that this process has compiled since the warm-up."""
        return _compilations.count - self._compiled_in_warm_up

    def warm_up(self, frames: Iterable[int]) -> None:
        """Compiles every program. frames: the numbers of frames that a video may have."""
        _compilations.listen()
        media = []
        if not self._config.text_only:
            size = self._config.image_size
            shapes = [(size, size, 3), *((number, size, size, 3) for number in frames)]
            media = [(self.encode(np.zeros(shape, np.uint8)), 0) for shape in shapes]
        prompt = ChatPrompt(np.zeros(1, np.int32))
        any_seed = Request(prompt, 1, seed=1 << 32)  # a large one takes one more program
        for length in (length for length in PIECES if length <= self.length):
            ids = np.zeros(length, np.int32)
            forms = [media, []] if self._config.llm.USES_MODALITY else [media]
            starts = [start for start in (0, BUCKET) if start + length <= self.length]
            for number, form, start in product({1, self.most_together(length)}, forms, starts):
                pieces = [Piece(row, ids, length, start, form) for row in range(number)]
                logits = self.prefill(pieces)[0]
        self.begin(0, prompt.input_ids, any_seed, 1, 0, logits)
        self.copy(0, self.count - 1, 0)
        self.release(0, 0)
        self.allow(0, np.full(-(-self._config.llm.vocab_size // 32), 2**32 - 1, np.uint32))
        for width in self._widths():
            self.decode(range(width or self.count), 1, with_logprobs=False)
        self.decode(range(self.count), 1, with_logprobs=True)
        jax.block_until_ready(self._state)
        self.reset()
        self._compiled_in_warm_up = _compilations.count

    def encode(self, pixels: np.ndarray) -> jax.Array:
        """The vectors [n, D] of a picture uint8[S, S, 3] or a video uint8[T, S, S, 3]."""
        batch = pixels[None, None]
        media = (None, batch) if pixels.ndim == 4 else (batch, None)
        with on_mesh(self._mesh, 1):
            vectors = core.encode(self._config, self._compute, self._params, *media)
            assert vectors is not None
            return vectors[0]

    def most_together(self, length: int) -> int:
        """The number of pieces of this length that are read together."""
        return max(1, min(_TOGETHER // length, self.count))

    def prefill(self, pieces: Sequence[Piece]) -> list[jax.Array]:
        """Reads P pieces of one length, and writes them to their rows: P is 1 or `most_together`.

        Returns: the logits of each one's last token, float32[1, V].
        """
        ids = np.stack([piece.ids for piece in pieces])
        slots = np.arange(ids.shape[1], dtype=np.int32)
        starts, counts, rows, adapters = (
            np.asarray(column, np.int32)
            for column in zip(
                *((piece.start, piece.count, piece.row, piece.adapter) for piece in pieces),
                strict=True,
            )
        )
        prompt = Prompt(
            input_ids=np.maximum(ids, 0),
            media_index=np.where(ids < 0, slots, -1).astype(np.int32),
            lengths=counts,
            media=self._canvas(pieces),
        )
        past = cache = None
        if starts.any():
            past, cache = PastTokens(starts, rows), self._state.cache
        with on_mesh(self._mesh, 1):
            prefilled = core.prefill(
                self._config, self._compute, self._params, prompt, cache, past, adapters
            )
        self._change(core.insert, prefilled, rows, starts, starts + counts)
        logits = prefilled.logits
        if len(pieces) == 1:
            return [logits]
        return [_one_of(logits, *_numbers(at)) for at in range(len(pieces))]

    def _canvas(self, pieces: Sequence[Piece]) -> jax.Array | None:
        """[P, L, D]: the vectors of the media of each piece, at its tokens. None if the model needs
        none."""
        has_media = any(piece.media for piece in pieces)
        if self._config.text_only or (not has_media and self._config.llm.USES_MODALITY):
            return None
        length = len(pieces[0].ids)
        if length not in self._canvases:
            zeros = np.zeros((1, length, self._config.llm.hidden_size), self._compute.dtype)
            self._canvases[length] = jax.device_put(zeros, self._device())
        canvases = [self._canvases[length]] * len(pieces)
        for i, piece in enumerate(pieces):
            for vectors, at in piece.media:
                canvases[i] = _put_on(canvases[i], vectors, *_numbers(at))
        return canvases[0] if len(pieces) == 1 else _together(canvases)

    def begin(
        self,
        row: int,
        ids: np.ndarray,
        request: Request,
        max_tokens: int,
        adapter: int,
        logits: jax.Array,
    ) -> core.NewTokens:
        """Samples the first token of a row that has the whole prompt `ids`; logits: of its last."""
        settings = core.make_rows(
            self._config,
            [request.sampling],
            row_keys(request.seed, 1),
            [request.end_ids],
            [max_tokens],
            [request.min_new_tokens],
            [ids],
            has_allowed=True,
            adapter=adapter,
        )
        if request.constraint is not None:
            settings = replace(settings, allowed=request.constraint.allowed()[None])
        given = *_numbers(row, len(ids)), logits, settings
        with on_mesh(self._mesh, self.count):
            self._state, found = core.begin(self._state, *given, self.max_logprobs)
        return found

    def decode(
        self, rows: Sequence[int], steps: int, with_logprobs: bool
    ) -> tuple[core.NewTokens, Sequence[int]]:
        """Up to `steps` tokens of each row, among which all active ones must be.

        Returns: (new tokens, the row of each of their columns).
        """
        widths = self._widths()
        width = next((w for w in widths if w is None or w >= len(rows)), None)
        which = None
        if width is None or with_logprobs:
            rows = range(self.count)
        else:
            others = (row for row in range(self.count) if row not in rows)
            rows = [*rows, *(next(others) for _ in range(width - len(rows)))]
            which = np.asarray(rows, np.int32)
        with on_mesh(self._mesh, self.count):
            self._state, found = core.decode_steps(
                self._config,
                self._compute,
                self._params,
                self._state,
                *_numbers(steps),
                which,
                self.max_logprobs if with_logprobs else None,
            )
        return found, rows

    def release(self, row: int, length: int) -> None:
        """Ends a row, which keeps its first `length` tokens."""
        self._change(core.release, *_numbers(row, length))

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of a row to a free one."""
        self._change(core.copy, *_numbers(source, target, length))

    def allow(self, row: int, allowed: np.ndarray) -> None:
        """Sets which tokens may come next in a row: uint32[V / 32], a bit each."""
        self._change(core.allow, *_numbers(row), allowed)

    def _change(self, function: Callable[..., core.DecodeState], *given: Any) -> None:
        with on_mesh(self._mesh, self.count):
            self._state = function(self._state, *given)

    def _device(self) -> Any:
        """Where arrays are that all devices have."""
        if self._mesh is not None:
            return NamedSharding(self._mesh, PartitionSpec())
        return next(iter(jax.tree.leaves(self._params)[0].devices()))

    def _widths(self) -> list[int | None]:
        """The numbers of rows that are decoded together: on a CPU fewer are faster. None: all."""
        if jax.default_backend() != "cpu" or self._mesh is not None:
            return [None]
        return [*(2**n for n in range(self.count.bit_length()) if 2**n < self.count), None]

    def _rows_in_memory(self, shards: int, reserved_bytes: int) -> int:
        """As many rows as a device has memory for, beside what programs need for the time that they
        run. shards: the devices that divide rows among them."""
        free = _free_bytes({d for leaf in jax.tree.leaves(self._params) for d in leaf.devices()})
        if free is None:
            return max(1, _ROWS_ON_CPU // shards)
        llm, mesh = self._config.llm, self._mesh
        tensor = 1 if mesh is None else mesh.shape["tensor"]
        heads = llm.num_kv_heads
        if heads % tensor == 0:
            heads //= tensor
        token = 2 * llm.num_layers * heads * bytes_of_a_head(llm.head_dim, self._compute)
        row = token * self.length + llm.vocab_size * _BYTES_OF_AN_ID
        # A piece of a prompt is computed before it is written to its row.
        room = int(_MEMORY_SHARE * (min(free) - reserved_bytes)) - token * PIECES[-1]
        count = room // row
        while count > 1:
            needed = self._decoding_bytes(shards * count)
            fitting = max(1, (room - needed) // row)  # fewer rows need no more
            likely = room * count // (count * row + needed)  # if the need is proportional to rows
            if fitting >= _CLOSE * likely:
                return fitting
            count = min(count - 1, likely)
        return 1

    def _decoding_bytes(self, count: int) -> int:
        """What decoding `count` rows needs on each device beside weights and rows, as the compiler
        says. The warm-up finds the program compiled if there will be as many rows."""
        given = self._config, self._compute, self._params
        with on_mesh(self._mesh, count):
            empty = core.empty_state.lower(*given, count, self.length).compile()
            state = jax.tree.map(
                lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
                empty.out_info,
                empty.output_shardings,
            )
            program = core.decode_steps.lower(*given, state, *_numbers(1), None, self.max_logprobs)
            analysis = program.compile().memory_analysis()
        return 0 if analysis is None else int(analysis.temp_size_in_bytes)


def _free_bytes(devices: Iterable[Any]) -> list[int] | None:
    """The free memory of each device; None if a device does not tell."""
    stats = [device.memory_stats() for device in devices]
    if not all(stats):
        return None
    return [each["bytes_limit"] - each["bytes_in_use"] for each in stats]


@jax.jit
def _put_on(canvas: jax.Array, vectors: jax.Array, at: jax.Array) -> jax.Array:
    """Puts vectors [n, D] on a canvas [1, L, D] from token `at` on, -n <= at <= L."""
    n, L = len(vectors), canvas.shape[1]
    wide = jnp.pad(canvas[0], ((n, n), (0, 0)))
    wide = jax.lax.dynamic_update_slice(wide, vectors.astype(wide.dtype), (at + n, 0))
    return wide[None, n : n + L]


@jax.jit
def _together(canvases: Sequence[jax.Array]) -> jax.Array:
    """P canvases [1, L, D] -> [P, L, D]."""
    return jnp.concatenate(canvases)


@jax.jit
def _one_of(logits: jax.Array, at: jax.Array) -> jax.Array:
    """float32[P, V] -> float32[1, V]."""
    return jax.lax.dynamic_slice_in_dim(logits, at, 1)


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
