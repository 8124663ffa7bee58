"""Which row of the cache a prompt gets, and how many of its tokens are there already."""

import numpy as np
import pytest

from owl_jax.inference.prefix import TokenRun
from owl_jax.inference.prompt import BUCKET
from owl_jax.inference.requests import ChatPrompt, Request, Ticket
from owl_jax.inference.rows import Job, Row, choose_row, reusable_tokens


def run_of(*buckets, adapter=None):
    """Tokens of which each bucket has one number."""
    return TokenRun(np.repeat(np.asarray(buckets, np.int32), BUCKET), adapter=adapter)


def rows_of(*runs, busy=()):
    """Rows that were used in this order; those of `busy` answer a request."""
    rows = [Row(index, run, used=index) for index, run in enumerate(runs)]
    for index in busy:
        ticket = Ticket(Request(ChatPrompt(runs[index].ids), 1), lambda event: None)
        rows[index].job = Job(ticket, runs[index], rows[index])
    return rows


def chosen(rows, run):
    source, row, cached = choose_row(rows, run)
    return source.index, row.index, cached


def test_without_a_beginning_the_row_that_was_used_longest_ago():
    rows = rows_of(run_of(1), run_of(2), run_of(3), busy=[0])
    assert chosen(rows, run_of(7, 8)) == (1, 1, 0)


def test_a_conversation_goes_on_in_its_row():
    rows = rows_of(run_of(9), run_of(1, 2, 3))
    assert chosen(rows, run_of(1, 2, 3, 4)) == (1, 1, 3 * BUCKET)


def test_a_short_beginning_is_copied_so_that_the_other_conversation_can_go_on():
    rows = rows_of(run_of(9), run_of(1, 2, 3))
    assert chosen(rows, run_of(1, 7)) == (1, 0, BUCKET)


def test_the_oldest_row_is_overwritten_even_after_a_short_beginning():
    rows = rows_of(run_of(1, 2, 3), run_of(9))
    assert chosen(rows, run_of(1, 7)) == (0, 0, BUCKET)


def test_a_beginning_in_a_busy_row_is_copied():
    rows = rows_of(run_of(1, 2), run_of(9), busy=[0])
    assert chosen(rows, run_of(1, 2, 3)) == (0, 1, 2 * BUCKET)


def test_of_equal_beginnings_that_of_a_free_row():
    rows = rows_of(run_of(1, 2), run_of(9), run_of(1, 2), busy=[0])
    assert chosen(rows, run_of(1, 2, 3)) == (2, 2, 2 * BUCKET)


@pytest.mark.parametrize(
    ("prompt", "held", "buckets"),
    [
        (run_of(1, 2), run_of(1, 2), 1),  # the logits of the last token are needed
        (run_of(1, 2, 3), run_of(1, 2), 2),
        (run_of(1, 2), run_of(2, 2), 0),
        (run_of(1, 2), run_of(1, 2, adapter="owl"), 0),
    ],
)
def test_reusable_tokens(prompt, held, buckets):
    assert reusable_tokens(prompt, held) == buckets * BUCKET
