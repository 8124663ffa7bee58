"""Which texts are names of the hub."""

import pytest

from owl_jax.errors import UserError
from owl_jax.hub.names import (
    HubName,
    is_ambiguous,
    on_hub,
    parse_name,
    recorded_name,
    short_name,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("owls/tiny", HubName("owls/tiny")),
        ("Owl-1/tiny_v1.5-hf", HubName("Owl-1/tiny_v1.5-hf")),
        ("owls/tiny@v1.0", HubName("owls/tiny", "v1.0")),
        ("owls/tiny@refs/pr/3", HubName("owls/tiny", "refs/pr/3")),
        (f"owls/tiny@{COMMIT}", HubName("owls/tiny", COMMIT)),
        ("hf://owls/tiny", HubName("owls/tiny")),
        ("hf://models/owls/tiny@v1/a/b", HubName("owls/tiny", "v1", path="a/b")),
        ("hf://datasets/owls/seen", HubName("owls/seen", kind="dataset")),
        ("hf://datasets/owls/seen@x%2Fy/", HubName("owls/seen", "x/y", "dataset")),
        (
            "hf://datasets/owls/seen@refs/convert/parquet/a/*.parquet",
            HubName("owls/seen", "refs/convert/parquet", "dataset", "a/*.parquet"),
        ),
        *(
            (path, None)
            for path in (
                *("tiny", "/owls/tiny", "./owls/tiny", "../owls", "~/owls", "owls/tiny/", "a/b/c"),
                *("owls/.tiny", "-owls/tiny", "owls/ti--ny", "owls/tiny.git", "owls/ti ny", "a/é"),
                *(f"owls/{'a' * 92}", "owls\\tiny", "", "x.jsonl", "file:///owls/tiny"),
            )
        ),
    ],
)
def test_names_and_paths(text, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_name(text) == name
    assert on_hub(text) == name
    if name is not None:
        assert parse_name(str(name)) == name


@pytest.mark.parametrize("text", ["hf://", "hf://owls", "hf://datasets/owls", "hf:///owls/a"])
def test_a_wrong_spelling_with_the_protocol_is_an_error(text):
    with pytest.raises(UserError, match=r"expected hf://ORG/NAME\[@REVISION\]"):
        parse_name(text)


def test_a_path_may_not_leave_the_repository():
    with pytest.raises(UserError, match="leaves the repository"):
        parse_name("hf://owls/tiny/../../home")


def test_a_directory_of_the_same_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owls" / "tiny").mkdir(parents=True)
    assert on_hub("owls/tiny") is None and is_ambiguous("owls/tiny")
    assert on_hub("hf://owls/tiny") == HubName("owls/tiny")
    assert not is_ambiguous("hf://owls/tiny") and not is_ambiguous("owls/other")
    assert on_hub(tmp_path / "owls" / "tiny") is None


def test_what_is_recorded_and_what_a_list_calls_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cached = HubName("owls/tiny", COMMIT, path="sub").directory(tmp_path)
    assert recorded_name(cached) == f"owls/tiny@{COMMIT}"
    assert recorded_name(cached / "sub") == f"hf://owls/tiny@{COMMIT}/sub"
    data = HubName("owls/seen", COMMIT, "dataset").directory(tmp_path)
    assert recorded_name(data) == f"hf://datasets/owls/seen@{COMMIT}"
    assert recorded_name("runs/owls/model") == "runs/owls/model"
    assert [short_name(name) for name in (cached, "owls/tiny@v1", "runs/stage2/model")] == [
        "tiny",
        "tiny",
        "model",
    ]
    assert short_name("hf://owls/tiny/lora") == "lora" and short_name(".") == tmp_path.name
