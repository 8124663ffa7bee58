"""What /metrics tells, in Prometheus' text form.

The names are those that load generators and dashboards know from vLLM, behind a prefix. Counts and
gauges are the engine's own; times are measured where the server sees the tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from owl_jax.inference.requests import Stats

# Seconds: between two tokens, and of whole requests.
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)

_GAUGES = {
    "num_requests_running": ("Requests in a row of the batch", lambda s: s.running),
    "num_requests_waiting": ("Requests in the queue", lambda s: s.waiting),
    "kv_cache_usage_perc": ("Part of the key-value cache in use, 0 to 1", lambda s: s.cache_usage),
}
_COUNTERS = {
    "prompt_tokens": ("Tokens of prompts", lambda s: s.prompt_tokens),
    "cached_prompt_tokens": ("Those not computed again", lambda s: s.cached_prompt_tokens),
    "generation_tokens": ("New tokens", lambda s: s.new_tokens),
    "encoded_media": ("Pictures and videos encoded", lambda s: s.encoded_media),
    "cached_media": ("Pictures and videos found in the cache", lambda s: s.cached_media),
    "compilations": ("Programs compiled after the warm-up", lambda s: s.compilations),
    "num_preemptions": ("Requests that lost their row: never", lambda s: 0),
}


class Metrics:
    """The metrics of one server."""

    def __init__(self, prefix: str, model: str, stats: Callable[[], Stats | None]) -> None:
        """model: the label model_name. stats: the engine's; None while it is loading."""
        self._registry = CollectorRegistry()
        self._registry.register(_EngineStats(prefix, model, stats))
        self._model = model

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(
                f"{prefix}:{name}", text, ["model_name"], buckets=buckets, registry=self._registry
            )
            return made.labels(model)

        self._first = histogram("time_to_first_token_seconds", "Until the first token", _LONG)
        self._between = histogram("inter_token_latency_seconds", "Between two tokens", _SHORT)
        self._whole = histogram("e2e_request_latency_seconds", "Of a whole request", _LONG)
        self._per_token = histogram(
            "request_time_per_output_token_seconds", "Of a request, after its first token", _SHORT
        )
        self._ended = Counter(
            f"{prefix}:request_success",
            "Answers that were completed",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._statuses = Counter(
            f"{prefix}:http_responses", "Responses", ["status"], registry=self._registry
        )

    def text(self) -> bytes:
        """The body of /metrics."""
        return generate_latest(self._registry)

    def responded(self, status: int) -> None:
        """Counts a response of any path."""
        self._statuses.labels(str(status)).inc()

    def clock(self) -> Clock:
        """Times one answer, from now."""
        return Clock(self)

    def first_token(self, seconds: float) -> None:
        """Seconds from the request's arrival to its first token."""
        self._first.observe(seconds)

    def tokens(self, seconds: float, count: int) -> None:
        """So many tokens came together, so long after the ones before."""
        for _ in range(count):
            self._between.observe(seconds / count)

    def ended(self, reason: str, seconds: float, after_first: float, num_tokens: int) -> None:
        """An answer is complete. after_first: seconds since its first token."""
        self._ended.labels(self._model, reason).inc()
        self._whole.observe(seconds)
        if num_tokens > 1:
            self._per_token.observe(after_first / (num_tokens - 1))


class Clock:
    """The times of one answer."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._start = time.monotonic()
        self._first: float | None = None
        self._last = self._start

    def copy(self) -> Clock:
        """A clock of the same start, for another answer to the same request."""
        other = Clock(self._metrics)
        other._start = other._last = self._start
        return other

    def tokens(self, count: int) -> None:
        """`count` tokens have come."""
        now = time.monotonic()
        if count and self._first is None:
            self._first = now
            self._metrics.first_token(now - self._start)
            count -= 1
        if count:
            self._metrics.tokens(now - self._last, count)
        self._last = now

    def ended(self, reason: str, num_tokens: int) -> None:
        """The answer is complete."""
        now = time.monotonic()
        after_first = 0.0 if self._first is None else now - self._first
        self._metrics.ended(reason, now - self._start, after_first, num_tokens)


class _EngineStats(Collector):
    def __init__(self, prefix: str, model: str, stats: Callable[[], Stats | None]) -> None:
        self._prefix, self._model, self._stats = prefix, model, stats

    def collect(self) -> Iterable[Metric]:
        """The engine's counts; none while it is loading."""
        stats = self._stats()
        if stats is None:
            return
        for name, (text, read) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"{self._prefix}:{name}", text, labels=["model_name"])
            gauge.add_metric([self._model], read(stats))
            yield gauge
        for name, (text, read) in _COUNTERS.items():
            counter = CounterMetricFamily(f"{self._prefix}:{name}", text, labels=["model_name"])
            counter.add_metric([self._model], read(stats))
            yield counter
