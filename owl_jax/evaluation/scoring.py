"""Scores answers: official numbers, the headline with its interval, baselines, what is missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from owl_jax.errors import UserError, listed, shown
from owl_jax.evaluation.benchmark import Ask, Benchmark, Item, Judged, by_category
from owl_jax.evaluation.intervals import Interval, interval

_MOST_FAILED = 0.02  # share of verdicts that a judge may leave open


@dataclass(frozen=True)
class Category:
    """A row of the table of categories: the mean of its items' scores."""

    name: str
    value: float
    items: int


@dataclass(frozen=True)
class Scored:
    """A benchmark's scores of a model's answers.

    judged: in the order of the items.
    unparsed: answers in which the parser read nothing. unanswered: items without an answer, scored
      as if it were empty. unjudged: verdicts that a judge left open; they count in no number.
    """

    benchmark: Benchmark
    judged: Sequence[Judged]
    value: float
    interval: Interval
    categories: Sequence[Category]
    unparsed: int
    unanswered: int
    unjudged: int


def score(
    benchmark: Benchmark,
    items: Sequence[Item],
    answers: Mapping[str, str],
    ask: Ask | None = None,
    seed: int = 0,
) -> Scored:
    """Judges and scores the answers.

    answers: raw text by the items' ids; a missing one counts as empty.
    ask: the judge; without one, only the benchmark's rules are used.

    Raises UserError if the benchmark needs a judge, or the judge failed too often.
    """
    if benchmark.needs_judge and ask is None:
        raise _no_judge(benchmark, len(items))
    whole = {item.id: answers.get(item.id, "") for item in items}
    verdicts = benchmark.judge(items, whole, ask)
    if len(verdicts) != len(items):
        raise UserError(
            f"{benchmark.name} gave {len(verdicts):,} verdicts on {len(items):,} answers; expected "
            "one on each"
        )
    judged = [
        Judged(item, whole[item.id], verdict) for item, verdict in zip(items, verdicts, strict=True)
    ]
    for one in judged:
        if one.verdict.score is not None and not math.isfinite(one.verdict.score):
            raise UserError(
                f"{benchmark.name} scored the answer to {shown(one.item.id)} "
                f"{one.verdict.score}; expected a number, or None"
            )
    kept = with_verdict(judged)
    failed = len(judged) - len(kept)
    if failed and ask is None:
        raise _no_judge(benchmark, failed)
    if failed > _MOST_FAILED * len(judged):
        ids = [one.item.id for one in judged if one.verdict.score is None]
        raise UserError(
            f"the judge failed for {failed:,} of {len(judged):,} answers ({listed(ids, 4)}), more "
            f"than {_MOST_FAILED:.0%}; the same command asks only for those again"
        )
    return Scored(
        benchmark,
        judged,
        benchmark.headline_value(kept),
        interval(kept, benchmark.headline_value, seed),
        [
            Category(name, _mean_score(members), len(members))
            for name, members in sorted(by_category(kept).items())
        ],
        sum(one.verdict.parsed is None for one in kept),
        sum(item.id not in answers for item in items),
        failed,
    )


def _no_judge(benchmark: Benchmark, count: int) -> UserError:
    return UserError(
        f"{benchmark.name}: {count:,} answers are scored by a judge; give --judge_url and "
        "--judge_model, or --judge_replies with recorded replies; the model is not asked again"
    )


def with_verdict(judged: Sequence[Judged]) -> list[Judged]:
    """Those that no judge left open."""
    return [one for one in judged if one.verdict.score is not None]


def baselines(benchmark: Benchmark, items: Sequence[Item]) -> dict[str, float]:
    """Headline numbers of answers that look at nothing: constants, and the most frequent truth.

    Empty for a benchmark that needs a judge.
    """
    if benchmark.needs_judge:
        return {}
    given = {f'always "{name}"': text for name, text in benchmark.constant_answers(items).items()}
    truths = Counter(item.truth for item in items if item.truth)
    if truths:
        [(text, _)] = truths.most_common(1)
        given[f'the most frequent answer, "{text}"'] = text
    found = {}
    for name, text in given.items():
        verdicts = benchmark.judge(items, dict.fromkeys((item.id for item in items), text), None)
        if any(verdict.score is None for verdict in verdicts):  # a judge would have to be asked
            continue
        judged = [
            Judged(item, text, verdict) for item, verdict in zip(items, verdicts, strict=True)
        ]
        found[name] = benchmark.headline_value(judged)
    return found


def gain_and_leakage(seen: float, blind: float, base: float) -> dict[str, float]:
    """What the pictures add to a score, and what the model knows without them.

    seen, blind: the model's score with and without pictures; base: of the language model that it
    was made from, without pictures. Source: MMStar (arXiv 2403.20330, section 4.2).
    """
    return {"multi-modal gain": seen - blind, "multi-modal leakage": max(0.0, blind - base)}


def check_items(items: Sequence[Item], data: object) -> None:
    """Raises UserError if there are no items, or two have the same id."""
    if not items:
        raise UserError(f"{data} has no questions; expected at least one")
    twice = [id for id, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise UserError(
            f"{data}: {len(twice):,} ids are there twice, such as {listed(twice, 3)}; expected "
            "each item once"
        )


def _mean_score(judged: Sequence[Judged]) -> float:
    return sum(one.verdict.score or 0.0 for one in judged) / len(judged)
