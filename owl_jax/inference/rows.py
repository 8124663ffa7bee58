"""A row of the cache, the request that has it, and the choice of a row for a new request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from owl_jax.inference.prefix import Span, TokenRun
from owl_jax.inference.prompt import BUCKET
from owl_jax.inference.requests import Request, Ticket


@dataclass(eq=False)
class Row:
    """A row of the cache: its index, the tokens in it, and when it was last used."""

    index: int
    run: TokenRun = field(default_factory=lambda: TokenRun(np.zeros(0, np.int32)))
    used: int = 0
    job: Job | None = None


@dataclass(eq=False)
class Job:
    """A request in progress.

    filled: tokens of its prompt in the row. split: the medium whose tokens go on in the next piece
    of the prompt, and its vectors [n, D].
    """

    ticket: Ticket
    run: TokenRun
    row: Row
    cached: int = 0
    filled: int = 0
    split: tuple[Span, jax.Array] | None = None
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


def choose_row(rows: Sequence[Row], run: TokenRun) -> tuple[Row, Row, int]:
    """Chooses a free row for a prompt; there must be one.

    Returns: (source, row, cached). `row` is free. `source`, which may be the same row, holds the
    first `cached` tokens of the prompt; no row holds more of them.
    """
    free = [row for row in rows if row.job is None]
    oldest = min(free, key=lambda row: row.used)
    best = max(rows, key=lambda row: (reusable_tokens(run, row.run), row.job is None))
    cached = reusable_tokens(run, best.run)
    if not cached:
        return oldest, oldest, 0
    # Another conversation may go on from tokens that a row would lose.
    if best.job is None and (best is oldest or 2 * cached >= len(best.run.ids)):
        return best, best, cached
    return best, oldest, cached


def reusable_tokens(run: TokenRun, held: TokenRun) -> int:
    """How many tokens of a prompt need not be computed where others are held: a multiple of BUCKET.

    At least the last token is computed, as its logits are needed.
    """
    return min(run.shared(held), len(run.ids) - 1) // BUCKET * BUCKET
