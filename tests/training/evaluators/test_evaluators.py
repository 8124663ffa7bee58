"""Evaluators: what they measure, where it is written, and that they do not change training."""

import dataclasses
import json
import runpy
from contextlib import contextmanager

import jax
import numpy as np
import pytest
import tiny
from html_page import Page
from PIL import Image
from training_runs import CONFIG, finish, metrics_of, start_several, state_of, steps_of

from owl_jax.errors import UserError
from owl_jax.parallel.sharding import shard_batch
from owl_jax.training.data import open_data
from owl_jax.training.evaluators.evaluator import Evaluator
from owl_jax.training.evaluators.held_out_loss import HeldOutLoss
from owl_jax.training.loop import train
from owl_jax.training.objectives.next_token import summed_loss
from owl_jax.training.partition import merge
from owl_jax.training.report import write_curves

TIMELESS = ("loss", "grad_norm", "supervised_tokens", "learning_rate/lora", "dropped")
EVIL = "<script>alert(1)</script> & <b>bold</b>"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("evaluators")
    base = tiny.write_model(directory / "base")
    (directory / "config.py").write_text(CONFIG.format(base=base).lstrip())
    records = []
    for number in range(20):
        image = f"{number}.png"
        Image.new("RGB", (20, 20), (10 * number, 90, 40)).save(directory / image)
        text = f"Human: <image>\nHuman: What is it?\nAI: Owl {number} {EVIL if number % 2 else ''}"
        records.append({"text": text, "image": [image]})
    (directory / "heldout.jsonl").write_text("\n".join(map(json.dumps, records)))
    return directory


def make_config(files, evaluators=(), **changes):
    config = runpy.run_path(str(files / "config.py"))["get_config"]()
    config.steps, config.log_every, config.checkpoint_every = 6, 4, 3
    for recipe in config.recipes.values():
        recipe.schedule = "constant"
    config.export = "none"
    config.evaluators = evaluators
    for key, value in changes.items():
        config[key] = value
    return config


def held_out(files, **changes):
    settings = {"sequences": 10, "every": 2, "name": "pairs", "examples": 5, **changes}
    return HeldOutLoss(str(files / "heldout.jsonl"), **settings)


@dataclasses.dataclass(frozen=True)
class Straight(Evaluator):
    """The held-out loss computed in another way: each batch by the function that training uses."""

    config: object
    sequences: int
    name: str = "straight"
    every: int = 2

    @contextmanager
    def open(self, run):
        loss = jax.jit(summed_loss, static_argnums=(0, 1))

        def evaluate(event):
            params = merge(event.state.params, event.frozen)
            data = open_data(self.config, run.program.model)
            rows = [next(data.batches) for _ in range(2)]
            data.close()
            batch = jax.tree.map(lambda *x: np.concatenate(x)[: self.sequences], *rows)
            batch = jax.tree.map(lambda x: np.concatenate([x, x[:6]]), batch)
            batch.loss_mask[self.sequences :] = 0
            batch = type(batch)(**shard_batch(vars(batch), run.program.mesh))
            total, tokens = loss(run.program.model, run.program.compute, params, batch)
            return {"loss": total / tokens, "tokens": tokens}

        yield evaluate


@pytest.fixture(scope="module")
def runs(files):
    """The workdirs of the same run with and without evaluators."""
    data = make_config(files)
    data.data.mixture = ((str(files / "heldout.jsonl"), 1.0),)
    evaluators = [held_out(files), Straight(data, 10)]
    train(make_config(files, evaluators), files / "with")
    train(make_config(files), files / "without")
    return files / "with", files / "without"


def test_the_training_is_the_same_bit_by_bit(runs):
    first, second = runs
    assert steps_of(first) == steps_of(second) == [3, 6]
    for step in (3, 6):
        assert state_of(first, step) == state_of(second, step)
        positions = [run / f"checkpoints/{step}/data/process_0-of-1.json" for run in runs]
        assert positions[0].read_text() == positions[1].read_text()
    logged = [line for line in metrics_of(first) if "loss" in line]
    for got, wanted in zip(logged, metrics_of(second), strict=True):
        assert [got[name] for name in TIMELESS] == [wanted[name] for name in TIMELESS]


def test_numbers_are_in_the_line_of_their_step(runs, capsys):
    lines = {line["step"]: line for line in metrics_of(runs[0])}
    assert list(lines) == [1, 2, 4, 6]
    for step, line in lines.items():
        assert ("pairs/loss" in line) == (step != 1)
        assert ("loss" in line) == (step != 2)
    assert set(lines[2]) == {
        "step", "pairs/loss", "pairs/supervised_tokens", "straight/loss", "straight/tokens"
    }  # fmt: skip
    events = b"".join(path.read_bytes() for path in runs[0].glob("events.out.tfevents.*"))
    assert events.count(b"pairs/loss") == 3


def test_the_loss_is_the_mean_over_supervised_tokens(runs):
    lines = [line for line in metrics_of(runs[0]) if "pairs/loss" in line]
    assert len({line["pairs/loss"] for line in lines}) == 3
    for line in lines:
        assert line["pairs/loss"] == pytest.approx(line["straight/loss"], rel=1e-5)
        assert line["pairs/supervised_tokens"] == line["straight/tokens"] > 50


def test_the_mesh_does_not_matter(files, runs):
    """With a learning rate of zero the weights are those at the start."""
    losses = []
    for mesh in ({"data": 1, "fsdp": 8, "tensor": 1}, {"data": 2, "fsdp": 2, "tensor": 2}):
        config = make_config(files, [held_out(files)], steps=1)
        config.mesh.update(mesh)
        for recipe in config.recipes.values():
            recipe.learning_rate, recipe.warmup_steps = 0.0, 0
        train(config, files / f"mesh-{mesh['tensor']}")
        losses.append(metrics_of(files / f"mesh-{mesh['tensor']}")[0]["pairs/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_resumed_run_measures_the_same(files, runs):
    train(make_config(files, [held_out(files)], steps=4), files / "again")
    train(make_config(files, [held_out(files)]), files / "again")
    names = ("step", "pairs/loss", "pairs/supervised_tokens")
    got, wanted = (
        [[line[name] for name in names] for line in metrics_of(run) if "pairs/loss" in line]
        for run in (files / "again", runs[0])
    )
    assert got == wanted


def test_the_start_names_the_phase_and_the_config_the_evaluator(runs):
    assert "evaluators" in json.loads((runs[0] / "start_up.json").read_text())
    assert "evaluators" not in json.loads((runs[1] / "start_up.json").read_text())
    described = json.loads((runs[0] / "config.json").read_text())
    assert described["evaluators"][0].startswith("HeldOutLoss(source=")
    assert described["objective"] == "owl_jax.training.objectives.next_token.next_token"


def test_examples_have_every_supervised_token_and_its_loss(runs):
    report = json.loads((runs[0] / "evaluators" / "pairs.json").read_text())
    assert set(report) == {"version", "step", "loss", "supervised_tokens", "examples"}
    assert (report["version"], report["step"], len(report["examples"])) == (1, 6, 5)
    for example in report["examples"]:
        tokens = [part for part in example["parts"] if "token" in part]
        assert len(tokens) == example["tokens"]
        mean = np.mean([part["loss"] for part in tokens])
        assert mean == pytest.approx(example["loss"], abs=1e-3)
        said = "".join(part["token"] for part in tokens)
        assert said.startswith(" Owl ") and said.endswith("</s>")
        read = "".join(part.get("text", "") for part in example["parts"])
        assert "What is it?" in read and "Owl" not in read
        assert sum("picture" in part for part in example["parts"]) == 1


def test_the_report_shows_curves_and_examples_and_escapes_what_they_hold(runs):
    text = json.dumps(json.loads((runs[0] / "evaluators" / "pairs.json").read_text()))
    assert "<" in text
    write_curves(runs[0] / "report.html", runs[0])
    page = Page(runs[0] / "report.html")
    assert any(drawing.startswith("pairs/loss: ") for drawing in page.drawings())
    assert page.fetched() == []
    assert "Held-out examples" in page.text and "4.5 5.0 5.5 6.0 nats or more" in page.text
    examples = json.loads((runs[0] / "evaluators" / "pairs.json").read_text())["examples"]
    tokens = [part for example in examples for part in example["parts"] if "token" in part]
    shown = [tag for tag in page.all("b") if tag.get("title", "").endswith(" nats")]
    assert [tag["title"] for tag in shown] == [f"{part['loss']:.2f} nats" for part in tokens]
    assert [tag["class"] for tag in shown] == [
        f"n{min(int(part['loss'] / 0.5), 12)}" for part in tokens
    ]
    assert len(page.all("img")) == len(examples)


def test_text_with_tags_is_text(files, tmp_path):
    """All that a data set says, and a name of a file, may hold markup."""
    (tmp_path / "evaluators").mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "e/<script>alert(2)</script>": 1.0}\n')
    part = {"token": EVIL, "loss": None}
    example = {"loss": None, "tokens": 1, "parts": [{"text": EVIL}, part, {"picture": EVIL}]}
    report = {"version": 1, "step": 3, "loss": 0.5, "supervised_tokens": 9, "examples": [example]}
    (tmp_path / "evaluators" / "<script>.json").write_text(json.dumps(report))
    write_curves(tmp_path / "report.html", tmp_path)
    page = Page(tmp_path / "report.html")
    assert page.all("script") == []
    assert page.text.count(EVIL) == 2
    assert [tag["title"] for tag in page.all("b")] == ["not finite nats"]


def test_a_damaged_file_of_an_evaluator_is_one_line(tmp_path):
    (tmp_path / "evaluators").mkdir()
    (tmp_path / "evaluators" / "pairs.json").write_text('{"version"')
    with pytest.raises(UserError, match=r"pairs\.json: cannot be read as an evaluator's JSON"):
        write_curves(tmp_path / "report.html", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequences": 0}, r"config.evaluators\[0\] \(pairs\): sequences=0: expected a whole"),
        ({"sequences": 2.5}, "sequences=2.5: expected a whole number >= 1"),
        ({"examples": -1}, "examples=-1: expected a whole number >= 0"),
        ({"every": 0}, r"config.evaluators\[0\] \(pairs\): every=0: expected a number of steps"),
        ({"every": "2"}, "every='2': expected a number of steps"),
        ({"name": "a/b"}, "name='a/b': expected letters, digits"),
        ({"name": "learning_rate"}, "and not learning_rate or step_seconds"),
        ({"name": 3}, "name=3: expected letters"),
        ({"sequences": 21}, "pairs: sequences=21, but the 20 records of the source fill"),
        ({"source": "none.jsonl"}, "evaluator pairs: .*none.jsonl"),
        ({"source": ()}, "source is empty; name a source, such as a path"),
        (
            {"source": (("a.jsonl",),)},
            r"source\[0\] is \('a.jsonl',\); expected \(source, weight\)",
        ),
        ({"source": 7}, r"source\[0\] is \(7, 1.0\); expected \(source, weight\)"),
    ],
)
def test_settings_that_do_not_work_are_one_line(files, tmp_path, changes, message):
    evaluator = dataclasses.replace(held_out(files), **changes)
    with pytest.raises(UserError, match=message) as error:
        train(make_config(files, [evaluator]), tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["pairs"], r"config.evaluators\[0\] is 'pairs'; expected an Evaluator .* HeldOutLoss\("),
        ([HeldOutLoss], r"held_out_loss.HeldOutLoss; .*; write HeldOutLoss\(\.\.\.\)"),
        ([len], r"config.evaluators\[0\] is builtins.len; expected an Evaluator"),
    ],
)
def test_what_is_no_evaluator_is_one_line(files, tmp_path, entries, message):
    with pytest.raises(UserError, match=message):
        train(make_config(files, entries), tmp_path)


def test_two_of_one_name(files, tmp_path):
    with pytest.raises(UserError, match=r'"pairs" is the name of config.evaluators\[0\]; give'):
        train(make_config(files, [held_out(files), held_out(files, every=3)]), tmp_path)


@dataclasses.dataclass(frozen=True)
class Fails(Evaluator):
    """Finds something that it should not, from step 4 on."""

    found: object
    name: str = "fails"
    every: int = 1

    @contextmanager
    def open(self, run):
        def evaluate(event):
            if event.number < 4:
                return {"answer": 42}
            if isinstance(self.found, Exception):
                raise self.found
            return self.found

        yield evaluate


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (UserError("the file is gone"), "evaluator fails: the file is gone"),
        ([1.0], r"evaluator fails: it returned \[1.0\]; expected a dict of metric names"),
        ({"answer": "42"}, "evaluator fails: its metric answer is '42'; expected a number"),
        ({7: 1.0}, "evaluator fails: a metric has the name 7; expected printable text"),
    ],
)
def test_a_failure_loses_no_step(files, tmp_path, found, message):
    with pytest.raises(UserError, match=message) as error:
        train(make_config(files, [Fails(found)]), tmp_path)
    assert "\n" not in str(error.value)
    assert [line["step"] for line in metrics_of(tmp_path)] == [1, 2, 3]
    assert steps_of(tmp_path) == [3, 4]


@pytest.mark.processes
def test_several_processes_measure_what_one_does(files):
    """All records of the source: which of them each process reads does not matter."""
    evaluators = (
        f"\n    from owl_jax.training.evaluators.held_out_loss import HeldOutLoss\n"
        f"    config.evaluators = [HeldOutLoss({str(files / 'heldout.jsonl')!r}, 20, 3)]\n"
        f'    config.data.pack, config.steps, config.export = False, 3, "none"\n'
        f"    config.recipes.lora.learning_rate = config.recipes.connector.learning_rate = 0.0\n"
        f"    return config\n"
    )
    text = (files / "config.py").read_text().replace("\n    return config\n", evaluators)
    (files / "several.py").write_text(text)
    config = runpy.run_path(str(files / "several.py"))["get_config"]()
    config.batch_size = 8
    train(config, files / "one")
    processes = start_several(files / "several.py", files / "two", count=2, devices=2)
    results = finish(processes)
    assert [code for code, _, _ in results] == [0, 0], results
    one, two = metrics_of(files / "one")[-1], metrics_of(files / "two")[-1]
    assert two["heldout/supervised_tokens"] == one["heldout/supervised_tokens"]
    assert two["heldout/loss"] == pytest.approx(one["heldout/loss"], rel=1e-5)
    assert json.loads((files / "two" / "evaluators" / "heldout.json").read_text())["examples"]
