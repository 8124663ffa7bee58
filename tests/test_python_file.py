"""Calling a function of a Python file; errors in it are reported with their line."""

import pytest

from owl_jax.errors import UserError
from owl_jax.python_file import call_in_file, objects_in_file

FILE = """
from dataclasses import dataclass

LIMIT = 10

@dataclass
class Given:
    value: str = "nothing"

def give(value="nothing"):
    return Given(value).value if len(value) < LIMIT else 1 / 0

def refuse():
    from owl_jax.errors import UserError
    raise UserError("not today")
"""


@pytest.fixture
def call(tmp_path):
    def call(function, argument="", text=FILE):
        (tmp_path / "given.py").write_text(text)
        return call_in_file(str(tmp_path / "given.py"), function, argument, "a file")

    return call


def test_with_an_argument_and_without(call):
    assert call("give") == "nothing" and call("give", "x=1") == "x=1"
    assert call("take") is None


@pytest.mark.parametrize(
    ("function", "argument", "text", "message"),
    [
        ("give", "a long value", FILE, r"^a file \S+given\.py, line 11: ZeroDivisionError: div"),
        ("refuse", "", FILE, "^not today$"),
        ("refuse", "x", FILE, r"^a file \S+given\.py: TypeError: refuse\(\) takes 0 positional"),
        ("give", "", "x = (", r"^\S+given\.py, line 1: '\(' was never closed$"),
        ("give", "", "\nexit(2)", r"^a file \S+given\.py, line 2: SystemExit: 2$"),
        ("give", "", "def give():\n raise SystemExit", r"given\.py, line 2: SystemExit: $"),
        (
            *("give", "", f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\n"),
            r"^a file \S+given\.py: is a Git LFS pointer, not .*; expected a Python file$",
        ),
        ("give", "", "import no_such", r"given\.py, line 1: ModuleNotFoundError: No module"),
    ],
)
def test_what_goes_wrong(call, function, argument, text, message):
    with pytest.raises(UserError, match=message):
        call(function, argument, text)


def test_objects_of_a_file_that_cannot_be_read(tmp_path):
    for name, why in (("none.py", "No such file or directory"), ("", "is a directory")):
        path = tmp_path / name
        with pytest.raises(UserError, match=rf"a file {path}: {why}; expected a Python file"):
            objects_in_file(str(path), str, "a file")
