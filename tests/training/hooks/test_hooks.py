"""What the loop does with its hooks: when each method is called, hooks of one's own, wrong ones."""

import runpy
import time
from contextlib import contextmanager
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny
from training_runs import CONFIG, metrics_of, state_of, steps_of

from owl_jax.errors import UserError
from owl_jax.training import loop
from owl_jax.training.evaluators.evaluator import Evaluator
from owl_jax.training.hooks import throughput
from owl_jax.training.hooks.default import make_hooks
from owl_jax.training.hooks.hook import Hook
from owl_jax.training.loop import train


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hooks")
    base = tiny.write_model(directory / "base")
    (directory / "config.py").write_text(CONFIG.format(base=base).lstrip())
    return directory


def make_config(files, *hooks):
    config = runpy.run_path(str(files / "config.py"))["get_config"]()
    config.steps, config.checkpoint_every, config.export = 4, 2, "none"
    for recipe in config.recipes.values():
        recipe.schedule = "constant"
    config.hooks = hooks
    return config


@pytest.fixture(scope="module")
def whole(files):
    """The workdir of a run that nothing happened to, and the steps that its hook saw."""
    numbers = []
    train(make_config(files, lambda event: numbers.append(event.number)), files / "whole")
    return files / "whole", numbers


class Told(Hook):
    """Writes down what it is called with."""

    def __init__(self):
        self.calls = []

    @contextmanager
    def holding(self, workdir):
        self.calls.append(f"hold {workdir.name}")
        yield
        self.calls.append("let go")

    @contextmanager
    def training(self, run):
        self.calls.append(f"from {run.start}")
        try:
            yield
        finally:
            self.calls.append("end")

    def before_step(self, number):
        self.calls.append(f"before {number}")

    def step_started(self, event):
        self.calls.append(f"started {event.number}")

    def after_step(self, event):
        assert event.batch.input_ids.shape == (8, 192)
        assert np.isfinite(event.metrics["loss"]) and event.asked <= event.arrived
        assert int(event.state.step) == event.number
        self.calls.append(f"after {event.number}{' last' if event.is_last else ''}")

    @contextmanager
    def pause(self, counted):
        self.calls.append(f"pause {counted}")
        yield


def test_every_method_is_called_in_its_turn(files, tmp_path):
    hook = Told()
    train(make_config(files, hook), tmp_path / "run")
    steps = [
        call
        for number in range(1, 5)
        for call in (
            f"before {number}",
            f"started {number}",
            f"after {number}{' last' if number == 4 else ''}",
            "pause True",  # around the call that saves where it is due
        )
    ]
    assert hook.calls == ["hold run", "from 0", *steps, "pause True", "end", "let go"]

    hook.calls.clear()  # nothing is left to do
    train(make_config(files, hook), tmp_path / "run")
    assert hook.calls == ["hold run", "let go"]


def test_evaluators_run_in_a_pause_that_does_not_count(files, tmp_path, monkeypatch):
    """So the watchdog is patient, and no rate has their time."""
    hook, hours = Told(), [0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 3_600 * hours[0])
    for module in (loop, throughput):
        monkeypatch.setattr(module, "time", clock)

    class Slow(Evaluator):
        name, every = "slow", 2

        @contextmanager
        def open(self, run):
            def evaluate(event):
                hook.calls.append("evaluation")
                hours[0] += 1
                return {"seconds": 3_600}

            yield evaluate

    config = make_config(files, hook)
    config.evaluators, config.log_every = (Slow(),), 1
    train(config, tmp_path)
    turn = ["started 2", "pause False", "evaluation", "after 2", "pause True", "before 3"]
    start = hook.calls.index("started 2")
    assert hook.calls[start : start + len(turn)] == turn
    assert hook.calls.count("evaluation") == 2
    by_step = {line["step"]: line for line in metrics_of(tmp_path)}
    assert by_step[2]["slow/seconds"] == by_step[4]["slow/seconds"] == 3_600
    assert by_step[3]["step_seconds/p99"] < 3_600  # the evaluation is not in it


def test_a_function_is_called_after_each_step(whole):
    assert whole[1] == [1, 2, 3, 4]


def test_a_hook_ends_the_run_and_nothing_is_lost(files, whole, tmp_path):
    """Such as one that stops when it has seen enough."""

    def stop(event):
        event.ends = event.ends or event.number == 3

    train(make_config(files, stop), tmp_path / "stopped")
    assert steps_of(tmp_path / "stopped") == [2, 3]
    train(make_config(files), tmp_path / "stopped")
    assert state_of(tmp_path / "stopped", 4) == state_of(whole[0], 4)


def test_data_that_fail_cost_no_step(files, whole, tmp_path):
    """The steps before them are saved, though none is due; mended, the run continues from there."""

    class Broken(Hook):
        @contextmanager
        def training(self, run):
            self.run = run
            yield

        def before_step(self, number):
            if number == 4:
                # What the iterator raises where too many records are dropped.
                object.__setattr__(self.run.data, "batches", Failing(self.run.data.batches))

    class Failing:
        def __init__(self, batches):
            self.batches = batches

        def __getattr__(self, name):
            return getattr(self.batches, name)

        def __next__(self):
            raise UserError("too many records were dropped")

    with pytest.raises(UserError, match=r"^too many records were dropped$"):
        train(make_config(files, Broken()), tmp_path / "broken")
    assert steps_of(tmp_path / "broken") == [2, 3]
    train(make_config(files), tmp_path / "broken")
    assert state_of(tmp_path / "broken", 4) == state_of(whole[0], 4)
    losses = [[line["loss"] for line in metrics_of(run)] for run in (tmp_path / "broken", whole[0])]
    assert losses[0] == losses[1]


def test_an_error_of_another_kind_saves_nothing(files, tmp_path):
    def fail(event):
        if event.number == 3:
            raise ValueError("a fault of the hook")

    with pytest.raises(ValueError, match="a fault of the hook"):
        train(make_config(files, fail), tmp_path)
    assert steps_of(tmp_path) == [2]


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("metrics", r"config.hooks\[0\] is 'metrics'; expected a Hook .* or a function"),
        (Told, r"config.hooks\[0\] is .*Told; .*; write Told\(\.\.\.\)"),
        (3, r"config.hooks\[0\] is 3; expected a Hook"),
    ],
)
def test_what_is_no_hook_is_one_line(files, tmp_path, hook, message):
    with pytest.raises(UserError, match=message) as error:
        train(make_config(files, hook), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_hooks_of_a_config_see_a_step_before_it_is_saved(files):
    names = [type(hook).__name__ for hook in make_hooks(make_config(files, Told(), print))]
    assert names == [
        "Preemption",
        "LogMetrics",
        "Profile",
        "WatchSteps",
        "Told",
        "AfterStep",
        "HoldWorkdir",
        "SaveCheckpoints",
    ]
    assert jax.process_count() == 1
