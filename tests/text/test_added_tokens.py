"""Splitting a text at added tokens."""

import time

import pytest

from owl_jax.text.added_tokens import AddedToken, Splitter


def parts(text, *tokens):
    found = Splitter({token.content: token for token in tokens}).split(text)
    return [part.id if isinstance(part, AddedToken) else part for part in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("no token < here", ["no token < here"]),
        ("<a>", [1]),
        ("<a><a>x<a>", [1, 1, "x", 1]),
        ("x <a> y", ["x ", 1, " y"]),
        ("<<a>>", ["<", 1, ">"]),
        ("<ab>", [2]),
        ("<ab", [3, "b"]),
        ("<a", [3]),
        ("<", ["<"]),
        ("猫<a>🦉", ["猫", 1, "🦉"]),
        ("a]b", ["a", 4, "b"]),
    ],
)
def test_the_first_and_longest_token_matches(text, expected):
    tokens = (AddedToken("<a>", 1), AddedToken("<ab>", 2), AddedToken("<a", 3), AddedToken("]", 4))
    assert parts(text, *tokens) == expected


@pytest.mark.parametrize(
    ("lstrip", "rstrip", "expected"),
    [
        (False, False, ["x ", 1, "\n ", 1, "\ty"]),
        (True, False, ["x", 1, 1, "\ty"]),
        (False, True, ["x ", 1, 1, "y"]),
        (True, True, ["x", 1, 1, "y"]),
    ],
)
def test_a_token_absorbs_white_space(lstrip, rstrip, expected):
    assert parts("x <a>\n <a>\ty", AddedToken("<a>", 1, lstrip=lstrip, rstrip=rstrip)) == expected


def test_no_tokens_are_one_part():
    assert parts("a <s> b") == ["a <s> b"]


def test_thousands_of_tokens_are_found_in_time_linear_in_the_text():
    tokens = [AddedToken(f"<loc{number}>", number) for number in range(10_000)]
    splitter = Splitter({token.content: token for token in tokens})
    text = "<loc" * 100_000 + "<loc77>"
    start = time.monotonic()
    *_, last = splitter.split(text)
    assert last == tokens[77]
    assert time.monotonic() - start < 20  # by a pattern of alternatives: minutes
