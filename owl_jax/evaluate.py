"""Measures a model, or answers that another system gave, on a benchmark.

    python -m owl_jax.evaluate --benchmark=NAME --data=PATH --output=DIR
        (--model=DIR | --answers=FILE)

PATH has the benchmark's official files. DIR gets answers.jsonl, results.json and report.html. A run
that was interrupted continues if the same command is given again. docs/evaluation.md has a command
for each benchmark.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

import owl_jax
from owl_jax import cli
from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Benchmark
from owl_jax.evaluation.choose import choose_benchmark
from owl_jax.hub.names import short_name
from owl_jax.inference.arguments import CACHE_DTYPES, DTYPES, NUM_FRAMES, whole_number

if TYPE_CHECKING:
    from owl_jax.evaluation.judge import Judge
    from owl_jax.evaluation.run import Asked, Task

_BENCHMARK = flags.DEFINE_string(
    "benchmark",
    None,
    "its name, or a Python file with one (docs/add_a_benchmark.md)",
    required=True,
)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "the benchmark's files: a folder, a file, or hf://datasets/ORG/NAME[@REVISION][/PATH]",
    required=True,
)
_OUTPUT = flags.DEFINE_string("output", None, "the folder of answers and results", required=True)
_COMPARE = flags.DEFINE_multi_string(
    "compare", [], "the output folder of another model on the same data; repeatable"
)
_NAME = flags.DEFINE_string("name", None, "what the report calls the model or the other system")
_SEED = flags.DEFINE_integer("seed", 0, "of the intervals, of sampling and of shuffled pictures")

_ANSWERS = flags.DEFINE_string(
    "answers", None, 'answers of another system instead of a model: JSON Lines of {"id", "answer"}'
)

_SYSTEMS = flags.DEFINE_multi_string(
    "systems", [], "another system's published answers to OwlEval, for the rating page; repeatable"
)
_RATINGS = flags.DEFINE_multi_string(
    "ratings", [], "grades that the rating page exported, a file of each rater; repeatable"
)

_MODEL = flags.DEFINE_string(
    "model", None, "the model's directory, or ORG/NAME[@REVISION] on the hub"
)
_ADAPTER = flags.DEFINE_string("adapter", None, "a LoRA adapter for the model, named like it")
_ANY_BASE = flags.DEFINE_bool("any_base", False, "accept an adapter of another base model")
_VERIFY = flags.DEFINE_bool("verify", False, "first check the files against their SHA256SUMS")
_PARTS = cli.define_parts_flag()
_CONVERSATION = flags.DEFINE_string(
    "conversation", None, "the conversation format, instead of the model's: a name or a Python file"
)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, DTYPES, "dtype of the weights; by default float32 on a CPU, else bfloat16"
)
_CACHE_DTYPE = flags.DEFINE_enum(
    "cache_dtype", "auto", CACHE_DTYPES, "dtype of cached keys and values; auto: of the computation"
)
_DATA_AXIS = flags.DEFINE_integer("mesh_data", 1, "devices among which questions are divided")
_FSDP_AXIS = flags.DEFINE_integer(
    "mesh_fsdp", 1, "devices among which weights are divided; -1: the rest"
)
_TENSOR_AXIS = flags.DEFINE_integer("mesh_tensor", 1, "devices among which heads are divided")

_MODE = flags.DEFINE_enum(
    "mode", None, ("generate", "rank", "letter"), "by default the benchmark's own (docs)"
)
_TEMPLATE = flags.DEFINE_string(
    "template", "official", "official, llava, owl, or a file with a Jinja template of the question"
)
_BASELINES = flags.DEFINE_list(
    "baselines",
    ["blind", "shuffled"],
    "asked again as blind, shuffled or language_model (docs); empty: none",
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", None, "of an answer; by default the benchmark's own"
)
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 is greedy decoding")
_NUM_FRAMES = flags.DEFINE_integer("num_frames", NUM_FRAMES, "frames of each video, at most 1024")
_JUDGE_URL = flags.DEFINE_string(
    "judge_url", None, "an OpenAI-compatible server that judges answers: http://HOST:PORT/v1"
)
_JUDGE_MODEL = flags.DEFINE_string("judge_model", None, "the judge's name on that server")
_JUDGE_KEY_FILE = flags.DEFINE_string(
    "judge_key_file", None, "a file with its key; by default the variable JUDGE_API_KEY, or none"
)
_JUDGE_REPLIES = flags.DEFINE_string(
    "judge_replies", None, 'recorded replies instead of a judge: JSON Lines of {"id", "reply"}'
)
_JUDGE_FIELDS = flags.DEFINE_string(
    "judge_fields",
    '{"temperature": 0, "max_tokens": 1024}',
    "what a request to the judge has beside model and messages, as JSON",
)
_JUDGE_TIMEOUT = flags.DEFINE_float("judge_timeout", 120.0, "seconds for one reply", lower_bound=1)
_JUDGE_ATTEMPTS = flags.DEFINE_integer("judge_attempts", 5, "at one question", lower_bound=1)
_JUDGE_CONCURRENCY = flags.DEFINE_integer(
    "judge_concurrency", 8, "questions to the judge at once", lower_bound=1
)
_ROWS = flags.DEFINE_integer("num_rows", None, "answers at once; by default what fits into memory")
_LENGTH = flags.DEFINE_integer("row_length", None, "tokens of question and answer together")
_THREADS = flags.DEFINE_integer("threads", 4, "that decode pictures and videos", lower_bound=1)
_INDEX = flags.DEFINE_integer(
    "shard_index", 0, "of this process, from 0 on: it answers every num_shards-th question"
)
_SHARDS = flags.DEFINE_integer("num_shards", 1, "processes that share the work and DIR")
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "take both from jax.distributed; each process has its own model"
)

GROUPS = {
    "what is measured": (_BENCHMARK, _DATA, _OUTPUT, _COMPARE, _NAME, _SEED),
    "answers of another system": (_ANSWERS,),
    "raters": (_SYSTEMS, _RATINGS),
    "model": (
        *(_MODEL, _ADAPTER, _ANY_BASE, _VERIFY, _PARTS, _CONVERSATION, _DTYPE, _CACHE_DTYPE),
        *(_DATA_AXIS, _FSDP_AXIS, _TENSOR_AXIS),
    ),
    "how it is asked": (_MODE, _TEMPLATE, _BASELINES, _MAX_NEW_TOKENS, _TEMPERATURE, _NUM_FRAMES),
    "judge": (
        *(_JUDGE_URL, _JUDGE_MODEL, _JUDGE_KEY_FILE, _JUDGE_REPLIES, _JUDGE_FIELDS),
        *(_JUDGE_TIMEOUT, _JUDGE_ATTEMPTS, _JUDGE_CONCURRENCY),
    ),
    "work": (_ROWS, _LENGTH, _THREADS, _INDEX, _SHARDS, _MULTIHOST),
}


def main(argv: list[str]) -> None:
    """Writes the results, and prints the headline."""
    del argv
    if (_MODEL.value is None) == (_ANSWERS.value is None):
        raise UserError("give --model=DIR, or --answers=FILE with answers of another system")
    _refuse_flags_without_effect()
    from owl_jax.data.sources.hub_data import data_path
    from owl_jax.evaluation.run import Task, check_rated, read_items

    whole_number(_SEED.value, "--seed", 0)
    benchmark = choose_benchmark(str(_BENCHMARK.value))
    asked = None if _MODEL.value is None else _asked(benchmark)
    if (_SYSTEMS.value or _RATINGS.value) and not benchmark.is_rated:
        raise UserError(f"--systems and --ratings: people do not rate {benchmark.name}")
    data = data_path(_DATA.value)
    task = Task(
        benchmark,
        read_items(benchmark, data),
        str(_DATA.value),
        Path(str(_OUTPUT.value)),
        systems=list(map(Path, _SYSTEMS.value)),
        ratings=list(map(Path, _RATINGS.value)),
        compare=list(map(Path, _COMPARE.value)),
        seed=_SEED.value,
    )
    name = _NAME.value or _system()
    check_rated(task, name)
    if benchmark.needs_judge and _JUDGE_URL.value is _JUDGE_REPLIES.value is None:
        cli.say(f"{benchmark.name} is scored by a judge; without --judge_url it is only answered")
    if _JUDGE_URL.value is None:
        results = _evaluate(_with_recorded_judge(task), asked, name)
    else:
        with _open_judge(task.output) as judge:
            results = _evaluate(dataclasses.replace(task, judge=judge), asked, name)
    if results is not None:
        cli.say(_summary(results, task.output))


def _refuse_flags_without_effect() -> None:
    """Raises UserError for flags that mean nothing beside the others."""
    if _ANSWERS.value is not None:
        given = _given("model", "how it is asked", "work")
        if given:
            raise UserError(f"--{given[0]} has no meaning with --answers: no model is asked")
    given = [name for name in _given("judge") if name not in ("judge_url", "judge_replies")]
    if given and _JUDGE_URL.value is None:
        raise UserError(f"--{given[0]} has no meaning without --judge_url")


def _given(*groups: str) -> list[str]:
    """The flags of these groups that the user gave."""
    named = [flag.name for group in groups for flag in GROUPS[group]]
    return [name for name in named if flags.FLAGS[name].present]


def _system() -> str:
    """What the model, or the file of answers, is called."""
    return Path(_ANSWERS.value).stem if _ANSWERS.value else short_name(str(_MODEL.value))


def _evaluate(task: Task, asked: Asked | None, name: str) -> dict[str, Any] | None:
    from owl_jax.evaluation.run import evaluate_answers

    if asked is not None:
        return _evaluate_model(task, asked, name)
    return evaluate_answers(task, Path(str(_ANSWERS.value)), name)


def _with_recorded_judge(task: Task) -> Task:
    from owl_jax.evaluation.judge import RecordedJudge

    if _JUDGE_REPLIES.value is None:
        return task
    return dataclasses.replace(task, judge=RecordedJudge(Path(_JUDGE_REPLIES.value)))


def _open_judge(output: Path) -> Judge:
    """The judge of the flags, which is there and accepts the key. Raises UserError."""
    try:
        from owl_jax.evaluation.judge import Judge, make_server
    except ImportError:
        raise UserError(
            "--judge_url needs httpx; install it: pip install 'owl_jax[evaluate]'"
        ) from None
    if _JUDGE_MODEL.value is None:
        raise UserError("--judge_url without --judge_model: give the judge's name on that server")
    if _JUDGE_REPLIES.value is not None:
        raise UserError("give --judge_url, or --judge_replies with recorded replies, not both")
    key_file = _JUDGE_KEY_FILE.value
    try:
        fields = json.loads(_JUDGE_FIELDS.value)
    except ValueError as error:
        raise UserError(f"--judge_fields is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UserError(f"--judge_fields={_JUDGE_FIELDS.value}: expected a JSON object")
    server = make_server(
        str(_JUDGE_URL.value),
        _JUDGE_MODEL.value,
        None if key_file is None else Path(key_file),
        fields=fields,
        timeout=_JUDGE_TIMEOUT.value,
        attempts=_JUDGE_ATTEMPTS.value,
        concurrency=_JUDGE_CONCURRENCY.value,
    )
    return Judge(server, output / "judge_replies.jsonl")


def _asked(benchmark: Benchmark) -> Asked:
    """The flags of how the model is asked, checked before anything is read."""
    from owl_jax.evaluation.ask import Settings
    from owl_jax.evaluation.run import BASELINES, Asked
    from owl_jax.evaluation.templates import choose_template
    from owl_jax.inference.given_media import MOST_FRAMES
    from owl_jax.inference.sampling import Sampling, check_seed

    mode = _MODE.value or benchmark.modes[0]
    if mode not in benchmark.modes:
        raise UserError(
            f"--mode={mode}: {benchmark.name} has no choices; expected "
            f"{' or '.join(benchmark.modes)}"
        )
    for name in _BASELINES.value:
        if name not in BASELINES:
            raise UserError(f"--baselines={name}: expected some of {', '.join(BASELINES)}")
    if not 0 <= _INDEX.value < _SHARDS.value:
        raise UserError(
            f"--shard_index={_INDEX.value} --num_shards={_SHARDS.value}: expected 0 to "
            f"{max(_SHARDS.value, 1) - 1} of at least 1"
        )
    choose_template(_TEMPLATE.value)
    Sampling.of(_TEMPERATURE.value)
    tokens = benchmark.max_new_tokens if _MAX_NEW_TOKENS.value is None else _MAX_NEW_TOKENS.value
    settings = Settings(
        mode,
        whole_number(tokens, "--max_new_tokens", 1),
        whole_number(_NUM_FRAMES.value, "--num_frames", 1, MOST_FRAMES),
        _TEMPERATURE.value,
        check_seed(_SEED.value),
    )
    engine = {"num_rows": _ROWS.value, "row_length": _LENGTH.value, "threads": _THREADS.value}
    for name in ("num_rows", "row_length"):
        if engine[name] is not None:
            whole_number(engine[name], f"--{name}", 1)
    baselines = () if benchmark.kind == "judged" else tuple(_BASELINES.value)
    return Asked(settings, _TEMPLATE.value, baselines, _INDEX.value, _SHARDS.value, engine)


def _evaluate_model(task: Task, asked: Asked, name: str) -> dict[str, Any] | None:
    import jax

    from owl_jax.evaluation.run import evaluate_model
    from owl_jax.parallel.mesh import make_mesh

    if _MULTIHOST.value:
        jax.distributed.initialize()
        asked = dataclasses.replace(
            asked, shard_index=jax.process_index(), num_shards=jax.process_count()
        )
    sizes = (_DATA_AXIS.value, _FSDP_AXIS.value, _TENSOR_AXIS.value)
    dtype = _DTYPE.value or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    owl = owl_jax.load(
        str(_MODEL.value),
        dtype,
        _ADAPTER.value,
        mesh=None if sizes == (1, 1, 1) else make_mesh(*sizes),
        any_base=_ANY_BASE.value,
        verify=_VERIFY.value,
        parts=_PARTS.value,
        conversation=_CONVERSATION.value,
        cache_dtype=_CACHE_DTYPE.value,
    )
    return evaluate_model(task, owl, asked, name, cli.say)


def _summary(results: Mapping[str, Any], output: Path) -> str:
    headline = results["headline"]
    low, high = headline["interval"]
    lines = [
        f"{results['benchmark']}: {headline['name']} {headline['value']:.4g} "
        f"({low:.4g} to {high:.4g}), {results['items']:,} items",
        *(f"  {name}: {value:.4g}" for name, value in results["baselines"].items()),
        *(f"  {name}: {value:.4g}" for name, value in results.get("gain", {}).items()),
    ]
    if results["judge_questions"] == 0:
        lines.append("  the judge was asked nothing: rules scored every answer")
    if agreement := results["judge_agreement"]:
        lines.append(
            f"  the judge, asked twice: {agreement['equal_scores']:.0%} equal scores of "
            f"{agreement['items']:,}"
        )
    noted = {
        "unparsed": "answers could not be read",
        "unanswered": "questions have no answer: scored as empty",
        "unjudged": "verdicts are missing: the judge failed",
    }
    lines += [f"  {results[key]:,} {text}" for key, text in noted.items() if results[key]]
    pages = ("report.html", "rating.html", "ratings.html")
    lines += [str(output / page) for page in pages if (output / page).exists()]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main, GROUPS)
