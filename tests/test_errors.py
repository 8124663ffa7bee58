"""Foreign text in messages: escaped, cut, and counted."""

import pickle

import pytest

from owl_jax.errors import BadData, UserError, capped, listed, printable, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m.png", "\\x1b[31mred\\x1b[0m.png"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x9b2J", "\\x9b2J"),
        ("evil\u202egnp.exe", "evil\\u202egnp.exe"),
        ("line\u2028end", "line\\u2028end"),
        ("half \ud800", "half \\ud800"),
        ("Eule über 鸮 🦉", "Eule über 鸮 🦉"),
    ],
)
def test_what_steers_a_terminal_is_escaped(text, expected):
    assert printable(text) == expected
    assert printable(expected) == expected
    assert str(UserError(text)) == expected
    assert str(pickle.loads(pickle.dumps(BadData("a reason", text)))) == expected


def test_line_ends_may_be_kept():
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_a_long_message_keeps_its_beginning_and_its_end():
    message = str(UserError("begin " + "x" * 10**6 + " end"))
    assert len(message) < 2000 and message.startswith("begin x") and message.endswith("x end")
    assert capped("short") == "short"


def test_values_are_shown_short_and_on_one_line():
    assert shown("a") == "'a'"
    assert shown(b"\0" * 10**8).startswith("b'\\x00") and len(shown(b"\0" * 10**8)) <= 63
    assert shown({"a": "\x1b"}) == "{'a': '\\x1b'}"
    assert len(shown(list(range(10**5)))) <= 63
    assert "\n" not in shown("a\nb")


def test_lists_are_capped():
    assert listed("abc") == "a, b, c"
    assert listed(range(10**6), most=3, separator="; ") == "0; 1; 2; and 999,997 more"
    assert listed([]) == ""
