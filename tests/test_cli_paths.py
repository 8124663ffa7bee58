"""Paths of flags and configs as people type them, and text of others' in what commands print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import forked
import pytest

ROOT = Path(__file__).parents[1]

COMMAND = '''
"""Shows its flags."""

import os
from pathlib import Path

from absl import flags

from owl_jax import cli

CONFIG = cli.define_config_flag()
WORKDIR = flags.DEFINE_string("workdir", "w", "a folder")
IMAGE = flags.DEFINE_multi_string("image", [], "pictures")
PROMPT = flags.DEFINE_string("prompt", None, "a question")


def main(argv):
    config = CONFIG.value
    if config.end == "make":
        Path(WORKDIR.value, "a").mkdir(parents=True)
    elif config.end == "bug":
        open(Path(WORKDIR.value) / "missing")
    elif config.end == "say":
        cli.say(WORKDIR.value)
    else:
        print(ascii([WORKDIR.value, IMAGE.value, PROMPT.value]))
        print(ascii(config.to_dict()))


if __name__ == "__main__":
    cli.run(main)
'''

CONFIG = """
from ml_collections import ConfigDict

def get_config(end=""):
    return ConfigDict({
        "end": end,
        "tokenizer": "",
        "init": {"llm": "~/llm", "vision": "fresh"},
        "data": {"media_root": "", "mixture": (("file:///m%20n.json", 1.0), ("b", "~1", "~/m"))},
    })
"""


@pytest.fixture
def command(tmp_path):
    (tmp_path / "show.py").write_text(COMMAND.lstrip())
    (tmp_path / "con fig.py").write_text(CONFIG)

    def call(*arguments, config="con fig.py", **environment):
        every = "show.py", f"--config={config}", *arguments
        variables = os.environ | {"HOME": str(tmp_path)} | environment
        if not environment:
            return forked.run(*every, environment=variables, directory=tmp_path)
        return subprocess.run(
            [sys.executable, *every], cwd=tmp_path, env=variables, capture_output=True, text=True
        )

    return call


def test_paths_are_expanded(command, tmp_path):
    result = command(
        "--workdir=~/runs/first",
        "--image=file:///a%20b.png",
        "--image=../~/x/",
        "--prompt=~/is file:///a%20b",
        "--config.tokenizer=~/words",
        "--config.data.media_root=file://localhost/media",
        config="~/con fig.py:variant",
    )
    assert result.stderr == ""
    shown = f"['{tmp_path}/runs/first', ['/a b.png', '../~/x/'], '~/is file:///a%20b']"
    assert result.stdout.splitlines()[0] == shown
    for part in (
        f"'tokenizer': '{tmp_path}/words'",
        f"'llm': '{tmp_path}/llm', 'vision': 'fresh'",
        "'media_root': '/media'",
        f"(('/m n.json', 1.0), ('b', '~1', '{tmp_path}/m'))",
        "'end': 'variant'",
    ):
        assert part in result.stdout


def test_a_config_may_be_a_file_url_and_stand_in_a_file_of_flags(command, tmp_path):
    result = command(config=f"file://{tmp_path}/con%20fig.py:variant")
    assert "'end': 'variant'" in result.stdout, result.stderr
    (tmp_path / "flags").write_bytes(b"--workdir=~/runs\r\n--prompt=two words\r\n")
    result = command("--flagfile=flags")
    assert f"['{tmp_path}/runs', [], 'two words']" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("arguments", "config", "words"),
    [
        (["--workdir="], "con fig.py", "--workdir= is empty"),
        (["--image="], "con fig.py", "--image= is empty"),
        (["--workdir=show.py"], "con fig.py", "--workdir=show.py: is a file"),
        (["--workdir=show.py/runs/a"], "con fig.py", "show.py is a file"),
        (["--workdir=" + "x" * 300], "con fig.py", "File name too long"),
        ([b"--workdir=caf\xe9"], "con fig.py", "--workdir=caf\\udce9: not UTF-8"),
        (["--workdir=$RUNS/first"], "con fig.py", "'$RUNS/first': the shell"),
        (["--workdir=C:\\runs"], "con fig.py", "a Windows path"),
        (["--workdir=~no-such-user/x"], "con fig.py", "there is no such user"),
        (["--workdir=/proc/none/x"], "con fig.py:make", "--workdir=/proc/none/x cannot be used"),
        (["--workdir=/dev/null/x"], "con fig.py", "/dev/null is a file"),
        (["--flagfile=latin"], "con fig.py", "name a text file in UTF-8"),
        (["--flagfile=missing"], "con fig.py", "missing"),
        (["--flagfile=configs"], "con fig.py", "configs"),
        ([], "file://elsewhere/c.py", "not a file of this machine"),
        ([], "other.py", "did you mean --config=configs/other.py?"),
        ([], "\x1b[31m.py", r"\x1b[31m.py"),
        (["--workdri=\x1b]0;x\x07"], "con fig.py", "workdir"),
        (["\x1b[2J\x9b"], "con fig.py", r"unexpected argument '\x1b[2J\x9b'"),
    ],
)
def test_one_line_for_what_cannot_be(arguments, config, words, command, tmp_path):
    (tmp_path / "latin").write_bytes(b"--prompt=caf\xe9\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "other.py").write_text(CONFIG)
    result = command(*arguments, config=config)
    assert result.returncode in (1, 2)
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr
    assert "\x1b" not in result.stderr and len(result.stderr) < 2000


def test_a_missing_file_inside_the_workdir_is_a_fault_of_ours(command, tmp_path):
    (tmp_path / "w").mkdir()
    assert "Traceback" in command(config="con fig.py:bug").stderr


def test_names_are_printed_escaped(command):
    assert command("--workdir=a\x1b[31m\r\x9b", config="con fig.py:say").stdout == (
        "a\\x1b[31m\\r\\x9b\n"
    )


@pytest.mark.parametrize(
    "environment", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_arguments_that_are_not_utf8(environment, command):
    """The bytes of a path stay as they are; those of other text are read as UTF-8."""
    picture, question = b"--image=caf\xe9.png", b"--prompt=\xc3\xa9 \xff"
    result = command(picture, question, **environment)
    assert result.stdout.splitlines()[0] == r"['w', ['caf\udce9.png'], '\xe9 \ufffd']"


def test_every_flag_of_text_is_known_as_a_path_or_not():
    from owl_jax.cli import PATHS

    others = {"coordinator_address", "topology", "prompt", "xla_option"}
    others |= {"allowed_media_host", "host", "name", "push"}
    others |= {"judge_fields", "judge_model", "judge_url", "template"}
    defined = set()
    for file in [
        *ROOT.glob("owl_jax/*.py"),
        *ROOT.glob("owl_jax/preview/*.py"),
        *ROOT.glob("owl_jax/serving/*.py"),
        *ROOT.glob("owl_jax/demo/*.py"),
    ]:
        text = file.read_text(encoding="utf-8")
        defined |= set(re.findall(r'DEFINE_(?:multi_)?string\(\s*"(\w+)"', text))
    assert defined == PATHS | others
