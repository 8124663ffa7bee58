"""Evaluates one system on one benchmark: asks or reads answers, scores them, writes the results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owl_jax.errors import UserError
from owl_jax.evaluation.answers import claim
from owl_jax.evaluation.benchmark import Ask, Benchmark, Item, JudgeCall, Judged, Medium, Question
from owl_jax.evaluation.given_answers import read_answers
from owl_jax.evaluation.intervals import difference
from owl_jax.evaluation.rating.files import read_rated, write_rated
from owl_jax.evaluation.rating.published import is_published, read_published
from owl_jax.evaluation.report import System, write_report
from owl_jax.evaluation.results import (
    ANSWERS,
    REPORT,
    Earlier,
    Provenance,
    commit,
    hash_of_items,
    read_results,
    write_results,
)
from owl_jax.evaluation.scoring import (
    baselines,
    check_items,
    gain_and_leakage,
    score,
    with_verdict,
)
from owl_jax.evaluation.templates import choose_template
from owl_jax.files import write_whole

if TYPE_CHECKING:
    from owl_jax.evaluation.ask import Settings
    from owl_jax.evaluation.judge import Judge, RecordedJudge
    from owl_jax.evaluation.prompts import Asking
    from owl_jax.inference.api import Owl

Tell = Callable[[str], None]

BASELINES = {
    "blind": "without pictures",
    "shuffled": "with another question's pictures",
    "language_model": "the language model alone",
}

_TOLD = 5  # questions without an answer that are named
_MOST_FAILED = 0.01


@dataclass(frozen=True)
class Task:
    """What is measured, and where the results go.

    items: of `benchmark`, read from `data`.
    judge: None: only rules.
    systems: answers of other systems, as published, to be graded beside these; ratings: grades.
    compare: output folders of other systems on the same data.
    seed: of intervals and shuffled pictures.
    """

    benchmark: Benchmark
    items: Sequence[Item]
    data: str
    output: Path
    judge: Judge | RecordedJudge | None = None
    systems: Sequence[Path] = ()
    ratings: Sequence[Path] = ()
    compare: Sequence[Path] = ()
    seed: int = 0


@dataclass(frozen=True)
class Asked:
    """How a model is asked.

    template: its name or file (evaluation/templates.py).
    baselines: ways of asking again without looking: "blind", "shuffled", "language_model".
    shard_index, num_shards: of this process.
    engine: further arguments of evaluation.ask.ask.
    """

    settings: Settings
    template: str
    baselines: Sequence[str]
    shard_index: int
    num_shards: int
    engine: Mapping[str, Any]


def read_items(benchmark: Benchmark, data: Path) -> list[Item]:
    """The benchmark's items. Raises UserError."""
    if not data.exists():
        raise UserError(f"--data={data}: no such file or folder")
    items = benchmark.read(data)
    check_items(items, f"--data={data}")
    return items


def check_rated(task: Task, name: str) -> None:
    """Raises UserError if other systems' answers, or ratings, cannot be used with those of `name`.

    So that this is known before a model is asked.
    """
    unknown = {item.id: "" for item in task.items}
    read_rated(task.items, unknown, name, task.systems, task.ratings, task.seed)


def evaluate_answers(task: Task, path: Path, name: str) -> dict[str, Any]:
    """Scores a file of answers; returns what results.json has. Raises UserError."""
    if task.benchmark.is_rated and is_published(path):
        answers = read_published(path, task.items).answers
    else:
        answers = read_answers(path, task.items)
    earlier = _compared(task)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    provenance = _provenance(task, name, digest, mode="given", template="given")
    claim(task.output, {"benchmark": task.benchmark.name, "answers": digest})
    records = ({"id": id, "answer": answer} for id, answer in answers.items())
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    write_whole(task.output / ANSWERS, "".join(f"{line}\n" for line in lines))
    return _finish(task, answers, provenance, {}, earlier)


def evaluate_model(
    task: Task, owl: Owl, asked: Asked, name: str, tell: Tell
) -> dict[str, Any] | None:
    """Asks the model and scores its answers.

    Returns what results.json has; None if other processes have not answered their questions yet.
    Raises UserError.
    """
    from owl_jax.evaluation.ask import model_hash
    from owl_jax.evaluation.prompts import Asking

    earlier = _compared(task)  # before the model is asked, which may take hours
    template = choose_template(asked.template)
    questions = {item.id: template(task.benchmark, item) for item in task.items}
    answers: dict[str, str] = {}
    for turn in _turns(task.items):
        askings = [_asking(item, questions, answers) for item in turn]
        given = _ask(task, owl, askings, asked, task.output, tell)
        if given is None:
            break  # the next questions need these answers
        answers |= given
    others = {}
    askings = [Asking(item.id, questions[item.id], item.choices) for item in task.items]
    for baseline in asked.baselines:
        found = _baseline(task, owl, askings, asked, baseline, tell)
        if found is not None:
            others[baseline] = found
    if given is None or len(others) < len(asked.baselines):
        return None
    provenance = _provenance(
        task, name, model_hash(owl), mode=asked.settings.mode, template=asked.template
    )
    return _finish(task, answers, provenance, others, earlier)


def _turns(items: Sequence[Item]) -> list[list[Item]]:
    """The items by the number of questions before them in their dialogue."""
    turns: dict[int, list[Item]] = {}
    for item in items:
        turns.setdefault(len(item.earlier), []).append(item)
    return [turns[number] for number in sorted(turns)]


def _asking(item: Item, questions: Mapping[str, Question], answers: Mapping[str, str]) -> Asking:
    """A question after the earlier ones of its dialogue; a picture is shown once."""
    from owl_jax.evaluation.prompts import Asking

    history: list[tuple[Question, str]] = []
    shown: list[Medium] = []

    def anew(id: str) -> Question:
        question = questions[id]
        parts = tuple(part for part in question.parts if part not in shown)
        shown.extend(part for part in parts if isinstance(part, Medium))
        return replace(question, parts=parts)

    for id in item.earlier:
        history.append((anew(id), answers.get(id, "")))
    return Asking(item.id, anew(item.id), item.choices, tuple(history))


def _ask(
    task: Task,
    owl: Owl,
    askings: Sequence[Asking],
    asked: Asked,
    directory: Path,
    tell: Tell,
) -> dict[str, str] | None:
    """The answers by id; None if other processes have not answered their questions yet.

    Raises UserError if too many questions could not be answered.
    """
    from owl_jax.evaluation.ask import ask

    outcome = ask(
        owl,
        askings,
        asked.settings,
        directory,
        {
            "benchmark": task.benchmark.name,
            "items": hash_of_items(task.items),
            "template": asked.template,
        },
        shard_index=asked.shard_index,
        num_shards=asked.num_shards,
        **asked.engine,
    )
    for problem, ids in (("media are missing", outcome.missing), ("failed", outcome.failed)):
        for id, reason in list(ids.items())[:_TOLD]:
            tell(f"{id}: {reason}")
        if ids:
            tell(f"{len(ids):,} of {len(askings):,} questions have no answer: {problem}")
    if len(outcome.failed) > _MOST_FAILED * len(askings):
        raise UserError(
            f"{len(outcome.failed):,} of {len(askings):,} questions failed, more than "
            f"{_MOST_FAILED:.0%}; the same command asks only those again"
        )
    answers = {id: answer.answer for id, answer in outcome.answers.items()}
    without = len(outcome.missing) + len(outcome.failed)
    if len(answers) + without < len(askings) and asked.num_shards > 1:
        tell(
            f"{directory}: {len(answers):,} of {len(askings):,} answers; the last process to "
            "finish writes the results"
        )
        return None
    return answers


def _baseline(
    task: Task, owl: Owl, askings: Sequence[Asking], asked: Asked, name: str, tell: Tell
) -> dict[str, str] | None:
    """The answers when the model is asked without looking."""
    from owl_jax.evaluation.ask_variants import base_language_model, blind, shuffled

    tell(f"baseline: {name}")
    if name == "language_model":
        owl = base_language_model(owl)
    changed = shuffled(askings, task.seed) if name == "shuffled" else blind(askings)
    return _ask(task, owl, changed, asked, task.output / name, tell)


def _finish(
    task: Task,
    answers: Mapping[str, str],
    provenance: Provenance,
    others: Mapping[str, Mapping[str, str]],
    earlier: Sequence[Earlier],
) -> dict[str, Any]:
    """Scores, and writes results.json, verdicts.jsonl and report.html."""
    benchmark, items = task.benchmark, task.items
    put: list[JudgeCall] = []
    ask = None if task.judge is None else _noting(task.judge.ask, put)
    scored = score(benchmark, items, answers, ask, task.seed)
    agreement = None if task.judge is None else task.judge.agreement(benchmark, items, answers)
    numbers = baselines(benchmark, items)
    for name, given in others.items():
        numbers[BASELINES[name]] = score(benchmark, items, given, ask, task.seed).value
    more: dict[str, Any] = {
        "judge_questions": None if ask is None else len(put),
        "judge_agreement": None if agreement is None else asdict(agreement),
    }
    if {"blind", "language_model"} <= others.keys():
        blind, base = numbers[BASELINES["blind"]], numbers[BASELINES["language_model"]]
        more["gain"] = gain_and_leakage(scored.value, blind, base)
    if benchmark.is_rated:
        more["ratings"] = write_rated(
            task.output, items, answers, provenance.system, task.systems, task.ratings, task.seed
        )
    results = write_results(task.output, scored, provenance, numbers, more)
    systems = [System(results, scored.judged)]
    systems += [System(other.results, other.judged) for other in earlier]
    differences = [
        difference(
            *_judged_in_both(other.judged, scored.judged), benchmark.headline_value, task.seed
        )
        for other in earlier
    ]
    write_report(task.output / REPORT, benchmark, systems, differences)
    return results


def _noting(ask: Ask, put: list[JudgeCall]) -> Ask:
    """`ask`, which adds what it is asked to `put`."""

    def noting(calls: Sequence[JudgeCall]) -> Sequence[str | None]:
        put.extend(calls)
        return ask(calls)

    return noting


def _compared(task: Task) -> list[Earlier]:
    return [read_results(path, task.items, task.benchmark.name) for path in task.compare]


def _judged_in_both(
    first: Sequence[Judged], second: Sequence[Judged]
) -> tuple[list[Judged], list[Judged]]:
    """Those that no judge left open in either system."""
    first, second = with_verdict(first), with_verdict(second)
    both = {one.item.id for one in first} & {one.item.id for one in second}
    return (
        [one for one in first if one.item.id in both],
        [one for one in second if one.item.id in both],
    )


def _provenance(task: Task, name: str, model: str, *, mode: str, template: str) -> Provenance:
    return Provenance(
        benchmark=task.benchmark.name,
        data=task.data,
        items_hash=hash_of_items(task.items),
        system=name,
        model=model,
        mode=mode,
        template=template,
        seed=task.seed,
        judge=None if task.judge is None else task.judge.name,
        version=version("owl_jax"),
        commit=commit(),
    )
