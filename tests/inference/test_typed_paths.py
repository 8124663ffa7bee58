import pytest

from owl_jax.errors import UserError
from owl_jax.inference.typed_paths import typed_paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a b.png", "c.png", "it's.png", r"back\ slash.png", " blank.png ", "100%25.png"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "paths"),
    [
        (r"a\ b.png", ["a b.png"]),
        ("a b.png", ["a b.png"]),
        ("'a b.png'  ", ["a b.png"]),
        ('"a b.png" c.png', ["a b.png", "c.png"]),
        (r"a\ b.png c.png ", ["a b.png", "c.png"]),
        ("it's.png", ["it's.png"]),
        (r"it\'s.png", ["it's.png"]),
        (r"back\ slash.png", [r"back\ slash.png"]),
        (" blank.png ", [" blank.png "]),
        ("  c.png \r", ["c.png"]),
        ("100%25.png", ["100%25.png"]),
        ("no such file.png", ["no such file.png"]),
        ("'not closed", ["'not closed"]),
        ("c.png missing.png", ["c.png", "missing.png"]),
        ("a\0b", ["a\0b"]),
        ("   ", []),
        ("\u201ca b.png\u201d", ["a b.png"]),
        ("\u2018it's.png\u2019 ", ["it's.png"]),
        ("\u00abmissing.png\u00bb", ["\u00abmissing.png\u00bb"]),
    ],
)
def test_names(folder, typed, paths):
    assert typed_paths(typed) == paths


def test_urls_and_home(folder):
    there = str(folder / "a b.png")
    assert typed_paths(f"file://{folder}/a%20b.png") == [there]
    assert typed_paths(f"FILE://localhost{folder}/a%20b.png file://{folder}/c.png") == [
        there,
        str(folder / "c.png"),
    ]
    assert typed_paths("~/c.png") == [str(folder / "c.png")]
    assert typed_paths(r"~/a\ b.png") == [there]
    with pytest.raises(UserError, match="this machine"):
        typed_paths("file://elsewhere/c.png")
    with pytest.raises(UserError, match="no such user"):
        typed_paths("~nobody-of-this-name/c.png")


@pytest.mark.parametrize(
    "typed", [r"C:\owls\a.png", r'"C:\my owls\a.png"', "file:///C:/owls/a.png"]
)
def test_paths_of_windows_are_named_as_typed(typed):
    with pytest.raises(UserError, match=r"^\S?'?C:[\\/].*owls[\\/]+a\.png'?: a Windows path"):
        typed_paths(typed)
