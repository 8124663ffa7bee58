"""A benchmark's score while training, and the checkpoint that is best by a metric."""

import dataclasses
import json
import runpy
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import tiny
from PIL import Image
from training_runs import CONFIG, finish, metrics_of, start_several, state_of, steps_of

import owl_jax
from owl_jax.errors import UserError
from owl_jax.evaluation.ask import Settings, ask
from owl_jax.evaluation.benchmark import Benchmark, Item, Judged, Medium, Question, Verdict
from owl_jax.evaluation.prompts import Asking
from owl_jax.training.evaluators.benchmark_score import BenchmarkScore, subset
from owl_jax.training.evaluators.evaluator import Evaluator
from owl_jax.training.loop import train

NEW = 6


class Digest(Benchmark):
    """Its score is a number that any change of any answer changes."""

    name = "digest"
    kind = "choice"
    modes = ("generate", "letter", "rank")
    headline = "digest"
    max_new_tokens = NEW

    def read(self, data):
        return [
            Item(str(number), f"Human {number}?", (Medium("image", path),), ("a human", "polite"))
            for number, path in enumerate(sorted(data.glob("*.png")))
        ]

    def question(self, item):
        return Question((*item.media, item.question))

    def judge(self, items, answers, ask):
        return [
            Verdict(answers[item.id] or None, zlib.crc32(answers[item.id].encode()) % 1009 / 1009)
            for item in items
        ]

    def headline_value(self, judged):
        return float(np.mean([(n % 7 + 1) * one.verdict.score for n, one in enumerate(judged)]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("benchmark")
    llm = dataclasses.replace(tiny.CONFIG.llm, max_positions=320)
    base = tiny.write_model(directory / "base", dataclasses.replace(tiny.CONFIG, llm=llm))
    (directory / "config.py").write_text(CONFIG.format(base=base).lstrip())
    random = np.random.default_rng(0)
    for number in range(10):
        pixels = random.integers(0, 256, (28, 28, 3), np.uint8)
        Image.fromarray(pixels).save(directory / f"{number}.png")
    return directory


def make_config(files, evaluators, **changes):
    config = runpy.run_path(str(files / "config.py"))["get_config"]()
    config.steps, config.checkpoint_every = 2, 2
    config.recipes.lora = {"learning_rate": 1e-1, "schedule": "constant"}
    config.recipes.connector = {"learning_rate": 1e-1, "schedule": "constant"}
    config.evaluators = evaluators
    for key, value in changes.items():
        config[key] = value
    return config


def score(files, mode, **changes):
    settings = {"items": 6, "every": 2, "name": mode, "mode": mode, "batch_size": 4}
    return BenchmarkScore(Digest(), str(files), **settings, **changes)


def test_the_score_is_that_of_the_exported_model(files, tmp_path):
    modes = Digest.modes
    train(make_config(files, [score(files, mode) for mode in modes]), tmp_path / "run")
    (line,) = [line for line in metrics_of(tmp_path / "run") if "generate/score" in line]
    owl = owl_jax.load(tmp_path / "run" / "model", "float32")
    benchmark = Digest()
    items = subset(benchmark.read(files), 6)
    askings = [Asking(item.id, benchmark.question(item), item.choices) for item in items]
    for mode in modes:
        found = ask(owl, askings, Settings(mode, NEW), tmp_path / mode, {}).answers
        answers = {id: answer.answer for id, answer in found.items()}
        verdicts = benchmark.judge(items, answers, None)
        judged = [Judged(item, "", verdict) for item, verdict in zip(items, verdicts, strict=True)]
        assert line[f"{mode}/score"] == pytest.approx(benchmark.headline_value(judged), rel=1e-6)
        assert line[f"{mode}/unparsed"] == sum(not text for text in answers.values()) / 6


def test_several_processes_get_the_answers_of_one(files, tmp_path):
    """With a learning rate of zero the weights are those at the start."""
    evaluators = (
        "\n    from test_benchmark_score import Digest\n"
        "    from owl_jax.training.evaluators.benchmark_score import BenchmarkScore\n"
        f"    data = {str(files)!r}\n"
        "    config.evaluators = [\n"
        "        BenchmarkScore(Digest(), data, 6, 3, mode, mode, batch_size=4)\n"
        '        for mode in ("generate", "rank")\n'
        "    ]\n"
        '    config.steps, config.export = 3, "none"\n'
        "    config.compute.scan_layers = True\n"
        "    config.recipes.lora.learning_rate = config.recipes.connector.learning_rate = 0.0\n"
        "    return config\n"
    )
    text = (files / "config.py").read_text().replace("\n    return config\n", evaluators)
    (tmp_path / "several.py").write_text(text)
    train(runpy.run_path(str(tmp_path / "several.py"))["get_config"](), tmp_path / "one")
    results = finish(start_several(tmp_path / "several.py", tmp_path / "two", count=2, devices=2))
    assert [code for code, _, _ in results] == [0, 0], results
    one, two = metrics_of(tmp_path / "one")[-1], metrics_of(tmp_path / "two")[-1]
    for mode in ("generate", "rank"):
        assert two[f"{mode}/score"] == one[f"{mode}/score"] > 0


def test_a_subset_is_the_same_in_any_order_and_keeps_groups_whole():
    items = [Item(str(number), "?", group=f"g{number // 3}") for number in range(60)]
    chosen = subset(items, 10)
    assert len(chosen) == 12 and len({item.group for item in chosen}) == 4
    assert chosen != items[:12] and chosen == sorted(chosen, key=lambda item: int(item.id))
    assert set(map(id, subset(items[::-1], 10))) == set(map(id, chosen))
    assert {item.id for item in chosen} < {item.id for item in subset(items, 20)}
    assert subset(items, 100) == items
    alone = [Item(str(number), "?") for number in range(60)]
    assert len(subset(alone, 10)) == 10


@dataclasses.dataclass(frozen=True)
class Given(Evaluator):
    """Says what it is told."""

    values: tuple
    name: str = "given"
    every: int = 1

    @contextmanager
    def open(self, run):
        yield lambda event: {"value": self.values[event.number - 1]}


VALUES = (3.0, 5.0, float("nan"), 1.0, 5.0, 2.0)


@pytest.fixture(scope="module")
def best_runs(files, tmp_path_factory):
    """Workdirs by mode; the runs are interrupted after step 4, and go on."""
    directory = tmp_path_factory.mktemp("best")
    for mode in ("max", "min"):
        for steps in (4, 6):
            train(
                make_config(
                    files,
                    [Given(VALUES)],
                    steps=steps,
                    keep_best="given/value" if mode == "max" else "min given/value",
                    checkpoint_every=1,
                    keep_checkpoints=6,
                ),
                directory / mode,
            )
    return directory


@pytest.mark.parametrize(("mode", "step", "value"), [("max", 2, 5.0), ("min", 4, 1.0)])
def test_the_best_step_is_kept_and_exported(best_runs, mode, step, value):
    run = best_runs / mode
    assert steps_of(run) == [1, 2, 3, 4, 5, 6]
    (kept,) = (path for path in (run / "best").iterdir() if path.name.isdigit())
    assert kept.name == str(step)
    assert json.loads((kept / "meta" / "metadata").read_text())["state"] == state_of(run, step)
    told = json.loads((run / "model" / "best.json").read_text())
    assert told == {"metric": "given/value", "mode": mode, "value": value, "step": step}
    assert "best.json" in (run / "model" / "SHA256SUMS").read_text()


def test_the_exported_weights_are_the_best_steps(files, best_runs, tmp_path):
    train(make_config(files, [Given(VALUES)], steps=2), tmp_path)
    best, second = (
        owl_jax.load(run / "model", "float32").params for run in (best_runs / "max", tmp_path)
    )
    last = owl_jax.load(best_runs / "min" / "model", "float32").params
    name = ("lora", "layers", "q_proj", "b")

    def leaf(tree):
        for key in name:
            tree = tree[key]
        return np.asarray(tree)

    np.testing.assert_array_equal(leaf(best), leaf(second))
    assert not np.array_equal(leaf(best), leaf(last))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": "owls"}, r"\(rank\): benchmark='owls': expected one of .*pope"),
        ({"mode": "guess"}, "mode='guess': expected one of generate, letter, rank"),
        ({"items": 0}, "items=0: expected a whole number >= 1"),
        ({"benchmark": "pope", "mode": None}, r"evaluator rank: --data=.* has no file \*_pope"),
    ],
)
def test_settings_that_do_not_work_are_one_line(files, tmp_path, changes, message):
    evaluator = dataclasses.replace(score(files, "rank"), **changes)
    with pytest.raises(UserError, match=message) as error:
        train(make_config(files, [evaluator]), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_best": "given"}, r"keep_best='given': expected NAME/METRIC .*; there are given/"),
        ({"keep_best": "other/value"}, "there are given/"),
        ({"keep_best": "best given/value"}, "expected NAME/METRIC of an evaluator, or 'min NAME"),
        ({"keep_best": "given/score"}, "keep_best='given/score': the evaluator has given/value"),
    ],
)
def test_a_metric_that_is_not_there_is_one_line(files, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(make_config(files, [Given(VALUES)], **changes), tmp_path)


def test_another_metric_does_not_go_on_from_the_best_value(files, best_runs):
    changes = {"keep_best": "min given/value", "steps": 7}
    with pytest.raises(UserError, match=r"best has the best step by max given/value, but"):
        train(make_config(files, [Given((*VALUES, 0.0))], **changes), best_runs / "max")
