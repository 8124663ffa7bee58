"""The training command, from its files in to its files out: run, kill, resume, refuse."""

import gzip
import json
import os
import re
import runpy
import shutil
import signal

import forked
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
from flax.traverse_util import flatten_dict
from quick_compile import on_devices
from read_whole import load_model
from training_runs import CONFIG, command, metrics_of, start

import owl_jax
from owl_jax.checkpoint.model_directory import save_model
from owl_jax.demo.synthetic import SyntheticSource
from owl_jax.errors import UserError
from owl_jax.training.loop import train
from owl_jax.training.step import make_step

STEPS = 20


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with a base model and a config that starts from it."""
    directory = tmp_path_factory.mktemp("training")
    base = tiny.write_model(directory / "base")
    (directory / "config.py").write_text(CONFIG.format(base=base).lstrip())
    return directory


@pytest.fixture
def config(files):
    return runpy.run_path(str(files / "config.py"))["get_config"]()


def assert_one_line(result, status, *words):
    code, _, err = result
    assert code == status, err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    for word in words:
        assert word in err


@pytest.fixture(scope="module")
def finished(files):
    """The workdir of a run that was never stopped, and what it printed."""
    code, out, err = command(files / "config.py", files / "run")
    assert code == 0, err
    return files / "run", out


def checkpoint_of(workdir, step):
    """Path to array of everything in a checkpoint's state."""
    path = workdir / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return {
            jax.tree_util.keystr(key, simple=True, separator="/"): value
            for key, value in jax.tree.leaves_with_path(
                checkpointer.restore(path, restore_args=arrays)
            )
        }


def test_a_run_leaves_what_the_contract_names(finished, config):
    workdir, printed = finished
    lines = metrics_of(workdir)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert set(lines[0]) == {
        "step",
        "loss",
        "supervised_tokens",
        "tokens_per_second",
        "useful_tokens_per_second",
        "examples_per_second",
        "step_seconds/p50",
        "step_seconds/p90",
        "step_seconds/p99",
        "row_fill",
        "data_wait",
        "dropped",
        "text_only",
        "learning_rate/lora",
        "learning_rate/connector",
        "grad_norm",
        "skipped",
        "skipped_in_a_row",
    }
    losses = [line["loss"] for line in lines]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert [line["learning_rate/connector"] for line in lines[:3]] == pytest.approx([0, 5e-3, 1e-2])
    assert lines[0]["learning_rate/lora"] == pytest.approx(1e-2)
    assert all(0 < line["supervised_tokens"] <= 8 * 192 for line in lines)
    for line in lines:
        useful = line["useful_tokens_per_second"] / line["tokens_per_second"]
        assert useful == pytest.approx(line["row_fill"])
        # One step between two lines.
        assert line["step_seconds/p50"] == pytest.approx(8 * 192 / line["tokens_per_second"])
    assert sum(line["skipped"] for line in lines) == 0
    assert all(0.5 < line["row_fill"] <= 1 and 0 <= line["data_wait"] < 1 for line in lines)

    assert json.loads((workdir / "config.json").read_text())["steps"] == STEPS
    assert list(workdir.glob("events.out.tfevents.*"))
    assert "<svg" in (workdir / "report.html").read_text()
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["15", "20"]
    table = [line.split() for line in printed.splitlines()]
    assert ["connector", "connector"] in [row[:2] for row in table]
    assert ["llm", "frozen"] in [row[:2] for row in table]
    assert str(workdir / "model") in printed


def test_the_exported_model_is_the_last_checkpoint_on_its_base(finished, files):
    workdir, _ = finished
    owl = owl_jax.load(workdir / "model", dtype="float32")
    assert owl.config.lora.rank == 2
    got = flatten_dict(jax.device_get(owl.params), sep="/")
    trained = checkpoint_of(workdir, STEPS)
    base = flatten_dict(load_model(files / "base", np.float32)[1], sep="/")
    for path, array in got.items():
        if path.startswith(("lora/", "connector/")):
            np.testing.assert_array_equal(array, trained[f"params/{path}"])
        else:
            rounded = base[path].astype("bfloat16").astype(np.float32)  # config.frozen_dtype
            np.testing.assert_array_equal(array, rounded)
    assert np.abs(got["lora/layers/q_proj/b"]).max() > 0


# Without the directory of programs that the tests' processes share.
KEEPS_ITS_OWN = """
import runpy
import jax
jax.config.update("jax_compilation_cache_dir", None)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
runpy.run_module("owl_jax.train", run_name="__main__", alter_sys=True)
"""


def test_a_start_is_timed_and_its_programs_are_kept(files):
    workdir = files / "kept"
    arguments = ("--config.steps=3", "--config.export=none")
    cache, programs = workdir / "compilation_cache", []
    for _ in range(2):
        flags = f"--config={files}/config.py", f"--workdir={workdir}", *arguments
        one_device = os.environ | {"XLA_FLAGS": on_devices(1)}
        done = forked.run("-c", KEEPS_ITS_OWN, *flags, environment=one_device)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("started in ")]
        assert re.fullmatch(
            r"started in [\d.]+ s: data [\d.]+, weights [\d.]+, checkpoint [\d.]+, "
            r"tracing [\d.]+, compiling [\d.]+",
            line,
        )
        assert re.search(r"^the step takes [\d.]+ GB of each device: ", done.stdout, re.MULTILINE)
        phases = json.loads((workdir / "start_up.json").read_text())
        assert list(phases) == ["data", "weights", "checkpoint", "tracing", "compiling"]
        kept = {path.name: path.stat().st_mtime_ns for path in cache.glob("jit_step-*-cache")}
        assert len(kept) == 1
        programs.append(kept)
        shutil.rmtree(workdir / "checkpoints")
    assert programs[0] == programs[1]  # the second start found it


def test_steps_are_traced_by_config(files, config, tmp_path):
    config.profile = (2, 3)
    config.steps, config.export = 4, "none"
    for recipe in config.recipes.values():
        recipe.schedule = "constant"  # the program of other tests
    train(config, tmp_path / "run")
    (trace,) = (tmp_path / "run" / "profile").rglob("*.trace.json.gz")
    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    steps = {event["args"]["step_num"] for event in events if event.get("name") == "train"}
    assert steps == {"2", "3"}


def test_an_address_is_for_several_processes(files):
    result = command(files / "config.py", files / "x", "--coordinator_address=localhost:1")
    assert_one_line(result, 2, "--process_id need --multihost")


def test_a_bucket_is_no_workdir(files):
    result = command(files / "config.py", "gs://nest/run")
    assert_one_line(result, 1, "--workdir=gs://nest/run: expected a folder; mount the bucket")


def test_a_killed_run_goes_on_as_if_nothing_had_happened(finished, files):
    expected, workdir = finished[0], files / "killed"
    process = start(files / "config.py", workdir)
    for line in process.stdout:
        # Checkpoints are written while training continues: the first one may take some steps.
        if line.startswith("killed ") and (workdir / "checkpoints" / "5").exists():
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    assert not (workdir / "checkpoints" / str(STEPS)).exists()

    code, out, err = command(files / "config.py", workdir)
    assert code == 0, err
    (resumed,) = [line for line in out.splitlines() if line.startswith("resumed from step")]
    assert int(resumed.split()[3]) in range(5, STEPS, 5)

    state, uninterrupted = checkpoint_of(workdir, STEPS), checkpoint_of(expected, STEPS)
    assert state.keys() == uninterrupted.keys()
    assert any("/mu/" in path for path in state)
    for path, array in state.items():
        assert array.dtype == uninterrupted[path].dtype
        np.testing.assert_array_equal(array, uninterrupted[path], err_msg=path)
    position = f"checkpoints/{STEPS}/data/process_0-of-1.json"
    assert (workdir / position).read_text() == (expected / position).read_text()

    timeless = ("step", "loss", "grad_norm", "supervised_tokens", "learning_rate/lora")
    for got, wanted in zip(metrics_of(workdir), metrics_of(expected), strict=True):
        assert [got[name] for name in timeless] == [wanted[name] for name in timeless]


def test_the_step_is_traced_once_in_a_run(config, tmp_path, monkeypatch):
    """Rows of words, of pictures and of videos, packed and not full, are one program."""
    traces = 0

    def make_counted(*arguments, **options):
        step = make_step(*arguments, **options)

        def counted(*arguments):
            nonlocal traces
            traces += 1
            return step(*arguments)

        return counted

    monkeypatch.setattr("owl_jax.training.train_program.make_step", make_counted)
    with config.unlocked():
        source = SyntheticSource({"vqa": 1.0, "video": 1.0, "text_math": 1.0})
        config.data.mixture = ((source, 1.0),)
    config.data.video_slots = 1
    config.steps = 6
    config.export = "none"
    train(config, tmp_path / "run")
    assert len(metrics_of(tmp_path / "run")) == 6 and traces == 1


def test_a_finished_run_is_left_alone(finished, files):
    workdir, _ = finished
    model = workdir / "model" / "config.json"
    before = model.stat().st_mtime_ns, (workdir / "metrics.jsonl").read_text()
    code, out, err = command(files / "config.py", workdir)
    assert code == 0, err
    assert f"nothing to do: {workdir} is at step 20 of 20" in out
    assert (model.stat().st_mtime_ns, (workdir / "metrics.jsonl").read_text()) == before


def test_a_finished_run_without_its_model_exports_it(finished, files, config):
    """Killed after the last checkpoint; and on eight devices, though it was saved on one."""
    workdir, _ = finished
    (workdir / "model").rename(workdir / "moved")
    assert train(config, workdir) == workdir / "model"
    (_, got), (_, wanted) = (load_model(workdir / x, np.float32) for x in ("model", "moved"))
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_a_longer_run_keeps_the_model_of_its_former_end(finished, files):
    workdir = files / "longer"
    shutil.copytree(finished[0], workdir)
    code, out, err = command(files / "config.py", workdir, "--config.steps=21")
    assert code == 0, err
    assert "resumed from step 20" in out
    (_, former), (_, new) = (load_model(workdir / x, np.float32) for x in ("model-20", "model"))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), former["lora"], new["lora"])
    assert all(jax.tree.leaves(moved))


def test_a_checkpoint_of_another_model_is_refused(finished, config, capsys):
    workdir, _ = finished
    config.model.lora.alpha = 8.0
    with pytest.raises(UserError, match="is a checkpoint of another model") as error:
        train(config, workdir)
    assert "its config.model.lora.alpha is 4.0, but 8.0 is expected" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_on_another_base_is_refused(finished, files, config):
    workdir, _ = finished
    model, params = load_model(files / "base", np.float32)
    params["llm"]["norm"]["scale"] = params["llm"]["norm"]["scale"] * 1.5
    save_model(files / "other", model, params, "orbax")
    config.init.llm = str(files / "other")
    with pytest.raises(UserError, match=r"another model.* its frozen base is ") as error:
        train(config, workdir)
    both = rf"{files / 'base'} in bfloat16 \(sha256:.*{files / 'other'}.* in bfloat16 \(sha256:"
    assert re.search(both, str(error.value))
    assert "allow it with --config.allow_base_mismatch=True" in str(error.value)
    assert "\n" not in str(error.value)
    config.allow_base_mismatch = True
    assert train(config, workdir) == workdir / "model"


def test_a_run_whose_loss_stays_infinite_is_stopped(files):
    workdir = files / "diverged"
    code, _, err = command(
        files / "config.py",
        workdir,
        "--config.recipes.lora.learning_rate=3e38",
        "--config.max_skipped_steps=3",
        "--config.checkpoint_every=2",
    )
    assert code == 1
    assert err.splitlines()[-1].startswith(
        "error: step 4: the loss or gradient of the last 3 steps"
    )
    assert "Traceback" not in err
    lines = metrics_of(workdir)
    assert [line["skipped_in_a_row"] for line in lines] == [0, 1, 2, 3]
    assert [line["loss"] is None for line in lines] == [False, True, True, True]
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2"]
    state = checkpoint_of(workdir, 2)
    assert state["step"] == 2
    assert all(np.isfinite(array).all() for array in state.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.mixture": (("no.jsonl", 1.0),)}, r"not found: 'no.jsonl' \(config.data.mixture\[0"),
        ({"data.mixture": ()}, "no data: set config.data.mixture"),
        ({"data.mixture": (("synthetic:vqa", 1.0),)}, r"write configs/demo/synthetic\.py:vqa"),
        ({"data.sequence_length": 8}, "records were dropped.*no answer within 8 tokens"),
        ({"tokenizer": "none"}, r"not found: 'none' \(config.tokenizer\)"),
        ({"tokenizer": "", "init.llm": "fresh"}, r"not found: '' \(config.tokenizer\)"),
        ({"init.llm": "nowhere"}, r"not found: 'nowhere' \(config.init.llm\)"),
        ({"init.lora": "{base}"}, "no lora"),
        ({"model.llm.num_layers": 3}, "3"),
        ({"rules": (("loar/.*", "lora"), (".*", "frozen"))}, r"'loar/\.\*'.*matches no parameter"),
        ({"rules": (("lora/.*", "fast"), (".*", "frozen"))}, "unknown recipe"),
        ({"rules": ((".*", "frozen"),)}, "every parameter is frozen"),
        ({"recipes.lora": {"learning_rte": 1.0}}, r"config.recipes.lora.*\['learning_rte'\]"),
        ({"recipes.lora": {"learning_rate": 1.0, "warmup_steps": 20}}, "warmup_steps=20"),
        ({"mesh.data": 3}, "8 devices cannot be divided by 3"),
        ({"batch_size": 6}, "config.batch_size=6 cannot be divided among 8 devices"),
        (
            {"batch_size": 8, "gradient_accumulation_steps": 3},
            "config.batch_size=8 must be a multiple",
        ),
        ({"compute.attention": "flash"}, "config.compute.attention='flash': .* blockwise, cudnn"),
        ({"compute.dtype": "float16"}, "config.compute.dtype='float16': .* float32, bfloat16"),
        (
            {"compute.remat": "some"},
            "config.compute.remat='some' is not a remat policy.* none, dots, minimal, full",
        ),
        ({"frozen_dtype": "int4"}, "config.frozen_dtype='int4'"),
        ({"export": "torch"}, "config.export='torch': .* orbax, huggingface, none"),
        ({"log_every": 0}, "config.log_every=0: expected at least 1"),
        ({"hang_exit": -1.0}, "config.hang_exit=-1.0: expected at least 0"),
        ({"profile": (5, 4)}, r"config.profile=\(5, 4\): expected the first and the last step"),
        ({"profile": ("a", "b")}, "config.profile=.*: expected the first and the last step"),
        ({"frozen_dtype": "int8", "init.llm": "fresh"}, "int8 needs pretrained weights"),
    ],
)
def test_what_the_user_can_mend_is_one_line(files, config, tmp_path, changes, message):
    base = str(files / "base")
    with config.unlocked():
        for key, value in changes.items():
            *parents, last = key.split(".")
            place = config
            for parent in parents:
                place = place[parent]
            place[last] = value.format(base=base) if isinstance(value, str) else value
    with pytest.raises(UserError, match=message) as error:
        train(config, tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_workdir_that_is_a_file(config, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="cannot write checkpoints"):
        train(config, tmp_path / "run")


def test_a_config_without_its_weights_says_what_goes_where(tmp_path):
    result = command("configs/stage2.py", tmp_path / "run")
    assert_one_line(
        result,
        1,
        "not found: 'weights/mplug-owl-llama' (config.init.connector, config.init.llm, "
        "config.init.vision, config.tokenizer; the hub at ",
        "'data/alpaca.jsonl' (config.data.mixture[0])",
        "config.json, weights, tokenizer",
        "--config.tokenizer=DIR",
    )
    assert not (tmp_path / "run").exists()


def test_a_misspelt_key_is_answered_with_the_right_one(tmp_path):
    result = command("configs/stage2.py", tmp_path / "run", "--config.data.sequence_lenght=9")
    assert_one_line(
        result, 2, "--config.data.sequence_lenght", "did you mean --config.data.sequence_length?"
    )
