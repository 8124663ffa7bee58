"""Standard streams of any encoding, closed, full, or read no further, in real processes."""

import os
import subprocess
import sys

import pytest

COMMAND = '''
"""Prints what it is given."""

import sys

from absl import flags

from owl_jax import cli, console
from owl_jax.errors import UserError

TEXT = flags.DEFINE_string("text", "", "what to print")
LINES = flags.DEFINE_integer("lines", 1, "how often")
FAIL = flags.DEFINE_bool("fail", False, "ends with an error")
READ = flags.DEFINE_bool("read", False, "prints what it reads, too")
FILE = cli.define_path("file", None, "a file to read")


def main(_):
    for _ in range(LINES.value):
        console.say(TEXT.value)
    if FILE.value is not None:
        console.say(open(FILE.value).read())
    if READ.value:
        try:
            console.say(f"read {input()}")
        except EOFError:
            console.say("read nothing")
    if FAIL.value:
        raise UserError(f"cannot print {TEXT.value}")


if __name__ == "__main__":
    cli.run(main)
'''

COMMANDS = ("train", "compile", "convert", "chat", "demo", "prepare", "data.preview", "ablation")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp("console") / "echo.py"
    file.write_text(COMMAND.lstrip())
    return str(file)


def run_shell(line, script, **environment):
    """What /bin/sh makes of `line`, in which $RUN is the command: (status, stdout, stderr)."""
    result = subprocess.run(
        ["/bin/sh", "-c", line],
        env=os.environ | {"RUN": f"{sys.executable} {script}"} | environment,
        capture_output=True,
        timeout=120,
    )
    return result.returncode, result.stdout, result.stderr


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("environment", "printed"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, b"Eule \xfc \\u9e2e"),
        ({"PYTHONIOENCODING": "ascii"}, b"Eule \\xfc \\u9e2e"),
        ({"PYTHONIOENCODING": "cp1252:strict"}, b"Eule \xfc \\u9e2e"),
        (ASCII, b"Eule \\xfc \\u9e2e"),
    ],
)
def test_what_an_encoding_has_not_is_an_escape(script, environment, printed):
    text = "--text=\\u0045ule \u00fc \u9e2e".replace("\\u0045", "E")
    line = f"exec $RUN '{text}' --fail"
    if environment is ASCII:  # its arguments are bytes
        line = f"{sys.executable} -c \"import sys; sys.argv = ['echo', '{ascii(text)[1:-1]}'"
        line += f", '--fail']; import runpy; runpy.run_path('{script}', run_name='__main__')\""
    status, out, err = run_shell(line, script, **environment)
    assert (status, out) == (1, printed + b"\n"), err
    assert err.startswith(b"error: cannot print Eule") and err.count(b"\n") == 1


def test_bytes_that_are_not_utf8_are_printed_and_read(script):
    line = "printf 'caf\\351\\n' | $RUN --text=\"$(printf 'owl\\377')\" --read --fail"
    status, out, err = run_shell(line, script)
    assert status == 1
    assert out == b"owl\\udcff\nread caf\xef\xbf\xbd\n"
    assert err == b"error: cannot print owl\\udcff\n"


def test_what_steers_a_terminal_is_an_escape(script):
    escapes = "$(printf '\\033[31mred\\033]0;title\\007\\233')"
    status, out, err = run_shell(f'$RUN --text="{escapes}" --fail', script)
    assert status == 1 and b"\x1b" not in out + err and b"\x07" not in out + err
    assert out == b"\\x1b[31mred\\x1b]0;title\\x07\\udc9b\n"


@pytest.mark.parametrize(
    ("line", "status", "out"),
    [
        ("($RUN --text=owl --lines=20000; echo $? >&2) | head -1", 0, b"owl\n"),
        ("($RUN --text=owl --fail; echo $? >&2) | true", 0, b""),
        ("$RUN --text=owl >&-", 0, b""),
        ("$RUN --text=owl 2>&-", 0, b"owl\n"),
        ("$RUN --text=owl --read <&-", 0, b"owl\nread nothing\n"),
        ("$RUN --text=owl --read <&- >&- 2>&-", 0, b""),
        ("$RUN --text=owl --fail >&- 2>&-", 1, b""),
        ("($RUN --text=owl --fail 2>&1; true) | head -c 1", 0, b"o"),
    ],
)
def test_streams_that_are_closed_end_a_command_quietly(script, line, status, out):
    found = run_shell(line, script)
    assert found[:2] == (status, out)
    assert b"Traceback" not in found[2] and b"Exception ignored" not in found[2]
    if "lines=20000" in line:
        assert found[2] == b"141\n"
    elif "true" in line and "2>&1" not in line:
        assert found[2] in (b"error: cannot print owl\n1\n", b"141\n")
    else:
        assert found[2] == b""


def test_a_file_does_not_take_the_place_of_a_closed_stream(script, tmp_path):
    (tmp_path / "file").write_text("words")
    status, _, err = run_shell(f"$RUN --file={tmp_path}/file >&- 2>&-", script)
    assert (status, err) == (0, b"")
    assert (tmp_path / "file").read_text() == "words"


@pytest.mark.parametrize("lines", [1, 20000])
def test_a_full_disk_under_the_output_is_one_line(script, lines):
    status, out, err = run_shell(f"$RUN --text=owl --lines={lines} > /dev/full", script)
    assert (status, out) == (1, b"")
    assert err.count(b"\n") == 1 and b"No space left on device" in err


def test_paths_are_as_people_type_them(script, tmp_path):
    (tmp_path / "a b.txt").write_text("words")
    for path in (
        "~/a b.txt",
        f"file://{tmp_path}/a%20b.txt",
        f"file://localhost{tmp_path}/a b.txt",
    ):
        status, out, err = run_shell(f"$RUN --file='{path}'", script, HOME=str(tmp_path))
        assert (status, out) == (0, b"\nwords\n"), err
    status, _, err = run_shell("$RUN --file=", script)
    assert status == 2 and b"expected a path" in err
    status, _, err = run_shell("$RUN --file=file://elsewhere/a.txt", script)
    assert status == 1 and b"a file of the machine 'elsewhere'; copy it here" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_ends_quietly_when_nobody_reads(command):
    run = f"{sys.executable} -m owl_jax.{command} --help"
    _, out, err = run_shell(f"({run}; echo $? >&2) | head -1", "")
    assert len(out.splitlines()) == 1
    assert err in (b"0\n", b"141\n")
    assert run_shell(f"{run} >&- 2>&-", "") == (0, b"", b"")
