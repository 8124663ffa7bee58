"""Streams that are closed, full, without a reader or in another encoding: real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = [
    *("train", "compile", "convert", "chat", "demo", "prepare", "data.preview", "ablation"),
    "parallel.xla_flags",
]

# What a command does with its streams, and nothing else.
SCRIPT = """
import sys
from owl_jax import streams

def main():
    {body}

streams.run(main)
"""


def shell(line, cwd, **environment):
    """Runs a line of bash, in which $P is Python and $S the script."""
    names = {"P": sys.executable, "S": str(Path(cwd) / "script.py"), "LC_ALL": "C.UTF-8"}
    names["PYTHONUNBUFFERED"] = ""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=cwd,
        env=os.environ | names | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )


@pytest.fixture
def script(tmp_path):
    def write(body):
        text = SCRIPT.format(body=body.replace("\n", "\n    "))
        (tmp_path / "script.py").write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_ends_quietly_where_nobody_reads(command, tmp_path):
    result = shell(f"$P -m owl_jax.{command} --help | head -0", tmp_path)
    assert (result.returncode, result.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("$P $S >&-", 0, b""),
        ("$P $S 2>&-", 0, b""),
        ("$P $S >&- 2>&- <&-", 0, b""),
        ("$P $S > /dev/full", 1, b"error: standard output: No space left on device\n"),
        ("$P $S 2> /dev/full", 0, b""),
        ("$P $S 2>&1 >&- | head -0", 0, b""),
        ("$P $S | head -0", 141, b""),
        ("$P -u $S > /dev/full", 1, b"error: standard output: No space left on device\n"),
        ("$P -u $S | head -0", 141, b""),
    ],
)
def test_output_that_is_gone(line, status, said, script):
    where = script("print('out', flush=False)\nprint('err', file=sys.stderr)")
    result = shell(line, where)
    assert result.returncode == status
    assert result.stderr.replace(b"err\n", b"") == said


def test_a_file_never_becomes_a_closed_stream(script, tmp_path):
    where = script("import os\nfile = open('file', 'w')\nos.write(1, b'x')\nprint('y', flush=True)")
    assert shell("$P $S >&- 2>&- <&-", where).returncode == 0
    assert (tmp_path / "file").read_text() == ""


def test_lost_output_is_saved_for_before_the_end(script, tmp_path):
    where = script(
        "import os, pathlib, signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path('saved').touch())\n"
        "input()\n"
        "print('step', flush=True)\n"
        "print('more', flush=True)\n"
        "sys.exit(75 if pathlib.Path('saved').exists() else 3)"
    )
    # The reader is gone before the first line is written.
    result = shell("(exec 3>&1; (sleep 0.2; echo) | $P $S | exec true)", where)
    assert (result.returncode, result.stderr) == (141, b"")
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_characters_that_the_encoding_lacks_are_escapes(environment, script):
    where = script("print('\\u732b \\ud83e')\nprint('\\u732b', file=sys.stderr)")
    result = shell("$P $S", where, **environment)
    assert (result.returncode, result.stdout) == (0, b"\\u732b \\ud83e\n")
    assert result.stderr == b"\\u732b\n"


@pytest.mark.parametrize(
    ("environment", "read"),
    [
        ({}, "caf\u00e9 \ufffd!"),
        ({"PYTHONIOENCODING": "utf-8:strict"}, "caf\u00e9 \ufffd!"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "caf\u00e9 \ufffd!"),
        ({"PYTHONIOENCODING": "latin-1"}, "caf\u00c3\u00a9 \u00ff!"),
    ],
)
def test_stray_bytes_of_stdin_are_replaced(environment, read, script):
    where = script("print(ascii(input()))")
    result = shell(r"printf 'caf\303\251 \377!\n' | $P $S", where, **environment)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode() == ascii(read) + "\n"


def test_what_libraries_log_cannot_steer_the_terminal(script):
    body = "import logging\nlogging.warning('\\x1b[31mred\\x9b2J \\x07')"
    result = shell("$P $S", script(body))
    assert result.stderr == rb"WARNING:root:\x1b[31mred\x9b2J \x07" + b"\n"


def test_a_fault_of_ours_keeps_its_traceback(script):
    result = shell("$P $S", script("raise BrokenPipeError('of a worker')"))
    assert result.returncode == 1
    assert result.stderr.endswith(b"BrokenPipeError: of a worker\n")


@pytest.mark.parametrize(("line", "printed"), [("$P -u $S", b"x"), ("$P $S", b"")])
def test_python_may_still_be_unbuffered(line, printed, script):
    result = shell(line, script("import os\nprint('x', end='')\nos._exit(0)"))
    assert result.stdout == printed
