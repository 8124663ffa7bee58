"""Rates: what they count, and over which time."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

from owl_jax.data.batch import Batch
from owl_jax.training.hooks.throughput import Throughput


def rows_of(segments):
    empty = dict.fromkeys(Batch.__dataclass_fields__)
    return Batch(**{**empty, "segment_ids": np.array(segments, np.int32)})


# Two rows of six positions: nine in use by three conversations.
ROWS = rows_of([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]])


def test_rates_between_two_reads():
    clock = Throughput(num_shards=4, flops=10.0, peak=1000.0)
    for step in (1, 2, 3):
        clock.count(jnp.float32(step), ROWS)
    rates = clock.read()
    seconds = 3 * 12 * 4 / rates["tokens_per_second"]
    assert rates["useful_tokens_per_second"] == pytest.approx(3 * 9 * 4 / seconds)
    assert rates["examples_per_second"] == pytest.approx(3 * 3 * 4 / seconds)
    assert rates["row_fill"] == 9 / 12
    assert rates["mfu"] == pytest.approx(3 * 10 / (seconds * 1000))
    assert 0 <= rates["step_seconds/p50"] <= rates["step_seconds/p90"] <= rates["step_seconds/p99"]
    assert rates["step_seconds/p99"] <= seconds
    assert "memory_peak_bytes" not in rates  # a CPU does not tell

    clock.count(jnp.float32(4), rows_of([[1, 0, 0, 0, 0, 0]] * 2))
    assert clock.read()["row_fill"] == 1 / 6  # the second window alone
    clock.close()


def test_no_utilization_of_an_unknown_peak():
    clock = Throughput(num_shards=1, flops=10.0, peak=None)
    clock.count(jnp.float32(1), ROWS)
    assert "mfu" not in clock.read()
    clock.close()


def test_waiting_counts_while_the_device_has_nothing_to_do():
    clock = Throughput(num_shards=1, flops=1.0, peak=None)
    clock.count(jnp.float32(1).block_until_ready(), ROWS)
    time.sleep(0.2)  # the step has ended
    asked = time.monotonic()
    time.sleep(0.6)
    clock.waited_for_data(asked, time.monotonic())
    clock.count(jnp.float32(2), ROWS)
    rates = clock.read()
    seconds = 2 * 12 / rates["tokens_per_second"]
    assert 0.6 <= rates["data_wait"] * seconds <= seconds - 0.2
    assert rates["step_seconds/p99"] > 0.6
    clock.close()


def test_what_is_left_out_takes_no_time():
    clock = Throughput(num_shards=1, flops=1.0, peak=None)
    clock.count(jnp.float32(1), ROWS)
    with clock.leaving_out():
        time.sleep(1.0)
    clock.count(jnp.float32(2), ROWS)
    rates = clock.read()
    assert 2 * 12 / rates["tokens_per_second"] < 1
    assert rates["step_seconds/p99"] < 1
    clock.count(jnp.float32(3), ROWS)
    assert clock.read()["step_seconds/p50"] >= 0
    clock.close()
