import textwrap

import forked
import pytest

COMMAND = '''
"""Counts to a number.

  python count.py --config=FILE --workdir=DIR
"""

import errno
import os
import signal

from absl import flags

from owl_jax import cli
from owl_jax.errors import UserError

CONFIG = cli.define_config_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "Where the count goes.", required=True)


def main(argv):
    end = CONFIG.value.end
    if end == "user":
        raise UserError("the count is lost; count again")
    if end == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if end == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "runs/count")
    if end == "bug":
        raise ValueError("a bug")
    print("counted", argv[1:], CONFIG.value.to_dict())
    return int(end)


if __name__ == "__main__":
    cli.run(main)
'''

CONFIG = """
from ml_collections import ConfigDict

def get_config(end="0"):
    return ConfigDict({
        "end": end,
        "learning_rate": 0.1,
        "mesh": {"data": -1},
        "trained": True,
        "rules": (("a", "b"),),
    })
"""

BROKEN = {
    "syntax.py": "x = 1\ndef get_config(:\n",
    "fault.py": "def get_config():\n    sizes = {}\n    return sizes['small']\n",
    "empty.py": "x = 1\n",
    "nothing.py": "def get_config():\n    pass\n",
    "import.py": "import no_such_module\n",
}


@pytest.fixture
def command(tmp_path):
    (tmp_path / "count.py").write_text(COMMAND.lstrip())
    (tmp_path / "config.py").write_text(CONFIG)
    for name, text in BROKEN.items():
        (tmp_path / name).write_text(text)

    def call(*arguments):
        return forked.run("count.py", *arguments, directory=tmp_path)

    return call


def assert_one_line(result, status, *words):
    assert result.returncode == status, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr
    assert result.stdout == ""


def test_overrides_arrive_and_the_return_value_is_the_status(command):
    result = command(
        "--config=config.py:3",
        "--workdir=x",
        "--config.mesh.data=4",
        "--config.learning_rate",
        "0.5",
        "--noconfig.trained",
        "--config.rules=(('c','d'),('e','f'))",
    )
    assert result.returncode == 3
    assert result.stderr == ""
    for part in (
        "counted []",
        "'learning_rate': 0.5",
        "'data': 4",
        "'trained': False",
        "'rules': (('c', 'd'), ('e', 'f'))",
    ):
        assert part in result.stdout


@pytest.mark.parametrize("arguments", [("--help",), ("--config=config.py", "--help")])
def test_help_shows_the_docstring_and_the_flags(command, arguments):
    result = command(*arguments)
    assert result.returncode == 0, result.stderr
    for part in ("Counts to a number.", "--config:", "--config.KEY=VALUE", "--workdir:"):
        assert part in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdr=x"], ["'workdr'", "workdir"]),
        (["--confg.learning_rate=1"], ["'confg.learning_rate'"]),
        (["--config.learning_rte=1"], ["--config.learning_rte", "--config.learning_rate?"]),
        (["--config.mesh.dta=1"], ["--config.mesh.dta", "--config.mesh.data?"]),
        (["--config.data=1"], ["--config.data", "--config.mesh.data?"]),
        (["--config.learning-rate=1"], ["--config.learning-rate", "--config.learning_rate?"]),
        (["--noconfig.train"], ["--config.trained?"]),
        (["--config.zzz", "1"], ["--config.zzz", "end, learning_rate, mesh.data, rules, trained"]),
        (["--config.learning_rate.x=1"], ["learning_rate.x", "--config.learning_rate?"]),
        (["--config.items=1"], ["--config.items"]),
        (["--config.rules[0]=1"], ["--config.rules[0]", "whole value", "--config.rules=VALUE"]),
        (["--config.ruls[0]=1"], ["--config.ruls", "--config.rules?"]),
        (["--config.learning_rate=fast"], ["--config.learning_rate=fast", "'fast'"]),
        (["words"], ["unexpected argument 'words'"]),
    ],
)
def test_wrong_flags(command, arguments, words):
    result = command("--config=config.py", "--workdir=x", *arguments)
    assert_one_line(result, 2, *words)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("model.resizing=pad", "keys fill, filter, kind; use --config.model.resizing.kind=pad"),
        ("model.resizing=", "keys fill, filter, kind; override one of them"),
        ("model.connector=ldp", "override one of them, or name another part in the config file"),
        ("mesh=4", "a section, with the keys data, fsdp, tensor; override one of them"),
        ("model.llm=", "--config.model.llm=: a section"),
    ],
)
def test_a_value_for_a_section(argument, words, tmp_path):
    config = ("--config=configs/demo/stage0.py", f"--workdir={tmp_path}")
    result = forked.run("-m", "owl_jax.train", *config, f"--config.{argument}")
    assert_one_line(result, 2, f"--config.{argument}", words)


def test_missing_flags(command):
    assert_one_line(command("--config=config.py"), 2, "--workdir")
    assert_one_line(command("--workdir=x"), 2, "--config")
    assert_one_line(command("--workdir=x", "--config.end=1"), 2, "--config")
    assert_one_line(command("--config.end=1", "--config=config.py", "--workdir=x"), 2, "--config")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("missing.py", ["'missing.py' does not exist"]),
        ("", ["'' does not exist"]),
        (".", ["'.' does not exist"]),
        ("syntax.py", ["syntax.py, line 2", "invalid syntax"]),
        ("fault.py", ["fault.py, line 3", "KeyError: 'small'"]),
        ("empty.py", ["empty.py must define get_config()"]),
        ("nothing.py", ["nothing.py must define get_config()"]),
        ("import.py", ["import.py, line 1", "No module named 'no_such_module'"]),
        ("config.py:full", ["runs/count: No space left on device; free some space"]),
        ("config.py:user", ["the count is lost; count again"]),
    ],
)
def test_user_errors(command, config, words):
    assert_one_line(command(f"--config={config}", "--workdir=x"), 1, *words)


def test_an_interrupt(command):
    assert_one_line(command("--config=config.py:interrupt", "--workdir=x"), 130, "interrupted")


def test_a_bug_keeps_its_traceback(command):
    result = command("--config=config.py:bug", "--workdir=x")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("ValueError: a bug\n")


def test_flags_may_come_from_a_file(command, tmp_path):
    (tmp_path / "flags").write_text(
        textwrap.dedent(
            """\
            --config=config.py
            --config.learning_rte=2
            """
        )
    )
    assert_one_line(command("--flagfile=flags", "--workdir=x"), 2, "--config.learning_rate?")
