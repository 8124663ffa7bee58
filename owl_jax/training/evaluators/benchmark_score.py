"""The score on a benchmark, or on a part of one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import jax
from ml_collections import ConfigDict

from owl_jax.checkpoint.hub_directory import tokenizer_directory
from owl_jax.data.sources.hub_data import data_path
from owl_jax.errors import UserError, listed, shown
from owl_jax.evaluation.ask import Settings, check, missing_media, prepare
from owl_jax.evaluation.benchmark import Benchmark, Item, Judged, Mode
from owl_jax.evaluation.benchmarks import BENCHMARKS
from owl_jax.evaluation.prompts import Asking
from owl_jax.evaluation.responders import (
    Model,
    Respond,
    Texts,
    choose_by_likelihood,
    generate_in_batches,
)
from owl_jax.inference.api import Owl
from owl_jax.inference.arguments import NUM_FRAMES
from owl_jax.models.stack import unstack
from owl_jax.parallel.agreement import raise_together
from owl_jax.training import config as settings
from owl_jax.training.evaluators.evaluator import Evaluate, Evaluator
from owl_jax.training.partition import merge
from owl_jax.training.run import Run, StepEvent

_THREADS = 4  # that read the benchmark's pictures


@dataclass(frozen=True)
class BenchmarkScore(Evaluator):
    """The headline number of a benchmark (owl_jax.evaluate) by rules, without a judge.

    The metrics are `score`, larger is better, and `unparsed`, the share of answers in which the
    benchmark's parser reads nothing. The model answers on the training's mesh, with the training's
    own weights. All pictures stay in memory. Programs are compiled when it runs for the first time.

    benchmark: a name, or an object of a Benchmark of your own (evaluation/benchmark.py).
    data: the benchmark's files, as --data of owl_jax.evaluate.
    items: about this many questions, chosen by the hash of their groups: the same in each run. A
      group, such as the questions about a picture, stays whole.
    every: the interval in steps; the last step is always included.
    name: the prefix of the metrics; by default the benchmark's name.
    mode: "generate", "letter" or "rank"; by default the benchmark's first.
    num_frames: of a video. batch_size: questions that are generated together.
    """

    benchmark: str | Benchmark
    data: str
    items: int = 256
    every: int = 500
    name: str = ""
    mode: Mode | None = None
    num_frames: int = NUM_FRAMES
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", getattr(self.benchmark, "name", self.benchmark))

    def check(self, config: ConfigDict) -> None:
        """Raises UserError for an unknown benchmark or mode, or an invalid number."""
        for key in ("items", "num_frames", "batch_size"):
            value = getattr(self, key)
            if type(value) is not int or value < 1:
                raise UserError(f"{key}={shown(value)}: expected a whole number >= 1")
        benchmark = self._benchmark()
        if benchmark.needs_judge:
            raise UserError(f"{benchmark.name} needs a judge; an evaluator has only rules")
        if self.mode is not None and self.mode not in benchmark.modes:
            raise UserError(
                f"mode={shown(self.mode)}: expected one of {', '.join(benchmark.modes)}"
            )

    @contextmanager
    def open(self, run: Run) -> Iterator[Evaluate]:
        """Reads the benchmark and its pictures. Raises UserError."""
        error, evaluation = None, None
        try:
            evaluation = _Evaluation(self, self._benchmark(), run)
        except UserError as failure:
            error = failure
        raise_together(error, "process {process} cannot read the benchmark")
        assert evaluation is not None
        yield evaluation

    def _benchmark(self) -> Benchmark:
        if isinstance(self.benchmark, Benchmark):
            return self.benchmark
        if self.benchmark not in BENCHMARKS:
            raise UserError(
                f"benchmark={shown(self.benchmark)}: expected one of "
                f"{listed(sorted(BENCHMARKS), 40)}"
            )
        return BENCHMARKS[self.benchmark]


def subset(items: Sequence[Item], count: int) -> list[Item]:
    """At least `count` items, if there are that many: whole groups, by the hash of their names, in
    the order of `items`."""

    def rank(item: Item) -> tuple[bytes, str]:
        group = item.group or item.id
        return hashlib.sha256(group.encode()).digest(), group

    if count >= len(items):
        return list(items)
    last = sorted(map(rank, items))[count - 1]
    return [item for item in items if rank(item) <= last]


class _Evaluation:
    """The questions with their pixels, in memory."""

    def __init__(self, evaluator: BenchmarkScore, benchmark: Benchmark, run: Run) -> None:
        self._program, self._benchmark = run.program, benchmark
        self._batch_size = evaluator.batch_size
        tokenizer = tokenizer_directory(settings.tokenizer_directory(run.config))
        owl = Owl(run.program.model, {}, tokenizer_source=tokenizer)  # only tokenizes
        self._texts = Texts.of(owl)
        self._settings = Settings(
            evaluator.mode or benchmark.modes[0], benchmark.max_new_tokens, evaluator.num_frames
        )
        items = subset(benchmark.read(data_path(evaluator.data)), evaluator.items)
        askings = [Asking(item.id, benchmark.question(item), item.choices) for item in items]
        check(owl, askings, self._settings)
        missing = missing_media(askings)
        self._items = [item for item in items if item.id not in missing]
        there = [asking for asking in askings if asking.id not in missing]
        with ThreadPoolExecutor(_THREADS) as pool:
            self._prompts = list(
                pool.map(lambda asking: prepare(owl, asking, self._settings), there)
            )

    def __call__(self, event: StepEvent) -> Mapping[str, float]:
        """The metrics after a step. Raises UserError for a question that cannot be answered."""
        answers = {}
        for reply in self._respond(event)(iter(self._prompts)):
            if reply.failure:
                raise UserError(f"question {reply.id}: {reply.failure}")
            answers[reply.id] = reply.text
        verdicts = self._benchmark.judge(self._items, answers, None)
        judged = [
            Judged(item, answers[item.id], verdict)
            for item, verdict in zip(self._items, verdicts, strict=True)
        ]
        unparsed = sum(verdict.parsed is None for verdict in verdicts)
        return {
            "score": self._benchmark.headline_value(judged),
            "unparsed": unparsed / len(judged),
        }

    def _respond(self, event: StepEvent) -> Respond:
        program, asked = self._program, self._settings
        compute = dataclasses.replace(
            program.compute, attention="auto", remat="none", media_remat="none"
        )
        trained = event.state.params
        if not compute.scan_layers:  # as the frozen ones are (train_program.py)
            trained = jax.jit(unstack)(trained)
        params = merge(trained, event.frozen)
        model = Model(program.model, compute, params, program.mesh)
        if asked.mode == "generate":
            return generate_in_batches(model, self._texts, asked.max_new_tokens, self._batch_size)
        return choose_by_likelihood(model, asked.mode == "letter")
