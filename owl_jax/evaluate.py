"""Measures a model, or answers that another system gave, on a benchmark.

    python -m owl_jax.evaluate --benchmark=NAME --data=PATH --output=DIR
        (--model=DIR | --answers=FILE)

PATH has the benchmark's official files. DIR gets answers.jsonl, results.json and report.html. A run
that was interrupted continues if the same command is given again. docs/evaluation.md has a command
for each benchmark.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from absl import flags

from owl_jax import cli
from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Benchmark, Item
from owl_jax.evaluation.benchmarks import BENCHMARKS
from owl_jax.evaluation.given_answers import as_records, read_answers
from owl_jax.evaluation.intervals import difference
from owl_jax.evaluation.report import System, write_report
from owl_jax.evaluation.results import (
    ANSWERS,
    REPORT,
    Settings,
    claim,
    commit,
    hash_of_items,
    read_results,
    write_results,
)
from owl_jax.evaluation.scoring import baselines, check_items, score, with_verdict
from owl_jax.files import as_typed, write_whole

_BENCHMARK = flags.DEFINE_enum("benchmark", None, sorted(BENCHMARKS), "its name", required=True)
_DATA = flags.DEFINE_string(
    "data", None, "the benchmark's files: a folder or a file", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "the folder of answers and results", required=True)
_ANSWERS = flags.DEFINE_string(
    "answers", None, 'answers of another system instead of a model: JSON Lines of {"id", "answer"}'
)
_SYSTEM = flags.DEFINE_string("name", None, "what the report calls the model or the other system")
_COMPARE = flags.DEFINE_multi_string(
    "compare", [], "the output folder of another model on the same data; repeatable"
)
_SEED = flags.DEFINE_integer("seed", 0, "of the intervals and of shuffled pictures")


def main(argv: list[str]) -> None:
    """Scores the answers and writes the results."""
    del argv
    benchmark = BENCHMARKS[_BENCHMARK.value]
    items = _read_items(benchmark)
    answers = read_answers(Path(as_typed(_ANSWERS.value)), items)
    settings = _settings(items)
    output = Path(as_typed(_OUTPUT.value))
    earlier = [read_results(Path(as_typed(path)), items, settings) for path in _COMPARE.value]
    claim(output, settings)
    write_whole(output / ANSWERS, "".join(f"{json.dumps(line)}\n" for line in as_records(answers)))
    scored = score(benchmark, items, answers, seed=_SEED.value)
    results = write_results(output, scored, settings, baselines(benchmark, items), {})
    judged = with_verdict(scored.judged)
    differences = [
        difference(with_verdict(other.judged), judged, benchmark.headline_value, _SEED.value)
        for other in earlier
    ]
    systems = [System(results, scored.judged)]
    systems += [System(other.results, other.judged) for other in earlier]
    write_report(output / REPORT, benchmark, systems, differences)
    cli.say(_summary(results, output))


def _summary(results: Mapping[str, Any], output: Path) -> str:
    headline = results["headline"]
    low, high = headline["interval"]
    lines = [
        f"{results['benchmark']}: {headline['name']} {headline['value']:.4g} "
        f"({low:.4g} to {high:.4g}), {results['items']:,} items",
        *(f"  {name}: {value:.4g}" for name, value in results["baselines"].items()),
    ]
    noted = {
        "unparsed": "answers could not be read",
        "unanswered": "questions have no answer: scored as empty",
        "unjudged": "verdicts are missing: the judge failed",
    }
    lines += [f"  {results[key]:,} {text}" for key, text in noted.items() if results[key]]
    return "\n".join([*lines, f"{output / REPORT}"])


def _read_items(benchmark: Benchmark) -> list[Item]:
    data = Path(as_typed(_DATA.value))
    if not data.exists():
        raise UserError(f"--data={_DATA.value}: no such file or folder")
    items = benchmark.read(data)
    check_items(items, f"--data={_DATA.value}")
    return items


def _settings(items: list[Item]) -> Settings:
    answers = Path(as_typed(_ANSWERS.value))
    digest = hashlib.sha256(answers.read_bytes()).hexdigest()
    return Settings(
        benchmark=_BENCHMARK.value,
        data=_DATA.value,
        items_hash=hash_of_items(items),
        system=_SYSTEM.value or answers.stem,
        model=digest,
        mode="given",
        template="given",
        seed=_SEED.value,
        version=version("owl_jax"),
        commit=commit(),
    )


if __name__ == "__main__":
    cli.run(main)
