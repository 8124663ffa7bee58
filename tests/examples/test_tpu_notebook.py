"""The cells of examples/tpu_vm.ipynb, without a TPU and without weights."""

import shlex
import subprocess

import forked
import pytest
from notebook_cells import EXAMPLES, python_calls, read, terminal_lines

NOTEBOOK = read("tpu_vm")
MODEL = "MAGAer13/mplug-owl-llama-7b"

# Runs a command up to its main function, and checks the config that it was given.
PARSE = """
import runpy, sys
from absl import flags
from owl_jax import cli
from owl_jax.training import config as settings

def check(_):
    if "config" in flags.FLAGS:
        config = flags.FLAGS["config"].value
        settings.check_values(config)
        settings.read_model(config)
        settings.read_recipes(config)
        print(settings.read_mixture(config)[0].source, config.batch_size, config.epochs)
        print(sorted(config.init.items()))

run = cli.run
cli.run = lambda main, groups=None: run(check, groups)
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The arguments of each `python` in the cells, in order, with the notebook's own settings."""
    return python_calls(NOTEBOOK, tmp_path_factory.mktemp("tpu_vm"))


def test_the_way_from_compiling_to_serving(calls):
    assert [call[:2] for call in calls] == [
        ["-m", f"owl_jax.{name}"]
        for name in (
            *("compile", "data.preview", "parallel.xla_flags", "train"),
            *("evaluate", "convert", "serve"),
        )
    ]


def test_each_command_is_one_that_its_module_takes(calls):
    printed = {}
    for _, module, *arguments in calls:
        if module == "owl_jax.parallel.xla_flags":
            done = forked.run("-m", module, *arguments)
        else:
            done = forked.run("-c", PARSE, module, *arguments, directory=EXAMPLES)
        assert done.returncode == 0, (module, arguments, done.stderr)
        printed[module] = done.stdout.splitlines()
    initial = {"vision": MODEL, "connector": MODEL, "llm": MODEL, "lora": "fresh"}
    assert printed["owl_jax.train"] == ["../data/train.csv 16 3.0", str(sorted(initial.items()))]
    assert printed["owl_jax.parallel.xla_flags"][0].startswith("--xla")


def test_the_step_that_is_compiled_is_the_one_that_is_trained(calls):
    """The same config, and the same changes of it but for where data and weights are."""
    by_module = {module: arguments for _, module, *arguments in calls}
    compiled, trained = (
        {text for text in by_module[f"owl_jax.{name}"] if text.startswith("--config")}
        for name in ("compile", "train")
    )
    elsewhere = (
        "--config.init.",
        "--config.tokenizer=",
        "--config.data.mixture=",
        "--config.epochs=",
    )
    assert compiled == {text for text in trained if not text.startswith(elsewhere)}


def test_the_commands_that_rent_and_delete_the_vm():
    lines = [line for line in terminal_lines(NOTEBOOK) if line.startswith("launch/")]
    assert [line.split()[1] for line in lines] == ["create", "delete"]
    for line in lines:
        script, *words = shlex.split(line)
        done = subprocess.run(
            ["bash", EXAMPLES.parent / script, *words, "--dry-run"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
