"""Data sets of the hub, from a hub on this machine."""

import json
import textwrap

import hub_python
import pytest
from hub_server import serving
from source_files import picture, text

from owl_jax.data.sources.detect import is_missing, open_source
from owl_jax.errors import UserError

LINES = b"".join(
    json.dumps({"text": text("<image>"), "image": [f"images/{n}.jpg"]}).encode() + b"\n"
    for n in range(2)
)
PICTURES = {f"images/{n}.jpg": picture(n) for n in range(3)}
SPLITS = {
    f"data/{split}-0000{n}-of-00002.parquet": f"{split} {n}".encode()
    for split in ("train", "test")
    for n in range(2)
}
SOURCE = """
    from owl_jax.data.sources.hub_data import data_path, local_source
    from owl_jax.data.sources.detect import open_source

    def source(spec, media_root=""):
        spec, media_root = local_source(spec, media_root)
        return spec.rpartition("snapshots/")[2][41:], media_root.rpartition("snapshots/")[2][41:]

    def cached():
        found = os.walk("hub")
        return " ".join(sorted(f"{at}/{n}".partition("snapshots/")[2][41:]
                               for at, _, names in found for n in names if "snapshots" in at))
"""


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        card = {"README.md": b"---\nlicense: mit\n---", ".gitattributes": b""}
        hub.add("owls/seen", {"a.jsonl": LINES, "b.jsonl": b"", **PICTURES, **card}, "datasets")
        hub.add("owls/rows", {**SPLITS, **card}, "datasets")
        tars = {f"shards/{n}.tar": b"%d" % n for n in range(2)}
        hub.add("owls/tars", {**tars, "shards/more/9.tar": b"9", "source.py": b""}, "datasets")
        yield hub


def run(hub, home, code):
    return hub_python.run(hub, home, textwrap.dedent(SOURCE) + textwrap.dedent(code))


def test_records_are_read_with_their_pictures(hub, tmp_path):
    code = """
        found = open_source("hf://datasets/owls/seen/a.jsonl")
        print(len(found), found[1]["images"][0].name, len(found[1]["images"][0].read_bytes()))
        print(cached())
    """
    count, files = run(hub, tmp_path, code)
    assert count == f"2 1.jpg {len(picture(1))}"
    assert files == "a.jsonl images/0.jpg images/1.jpg images/2.jpg"


def test_only_what_the_path_needs(hub, tmp_path):
    code = """
        for spec in ("rows", "rows@main/data@test", "rows/@test", "tars/shards/*.tar"):
            print(*source(f"hf://datasets/owls/{spec}"), "|", cached())
        print(*source("hf://datasets/owls/seen/b.jsonl", "hf://datasets/owls/seen/images"))
        print(*source("mine.jsonl", "photos"))
    """
    train, test = (
        " ".join(path for path in SPLITS if split in path) for split in ("train", "test")
    )
    lines = run(hub, tmp_path, code)
    assert lines[0] == f"  | {train}"
    assert lines[1] == f"data@test  | {test} {train}"
    assert lines[2] == f"@test  | {test} {train}"
    assert lines[3].startswith("shards/*.tar  | ") and "shards/1.tar" in lines[3]
    assert lines[4:] == ["b.jsonl images", " "]


def test_folders_and_files_for_benchmarks(hub, tmp_path):
    code = """
        print(data_path("hf://datasets/owls/seen/images/0.jpg").name, cached())
        print(data_path("hf://datasets/owls/seen/images").name, cached())
        print(data_path("hf://datasets/owls/seen/a.jsonl").name, cached())
        print(data_path("POPE"))
    """
    pictures = " ".join(PICTURES)
    expected = ["0.jpg images/0.jpg", f"images {pictures}", f"a.jsonl a.jsonl {pictures}", "POPE"]
    assert run(hub, tmp_path, code) == expected


def test_what_cannot_be_had(hub, tmp_path):
    code = """
        for spec in ("seen/c.jsonl", "rows@v9", "rows/data@validation", "unknown"):
            attempt(f"hf://datasets/owls/{spec}", "", get=local_source, show=str)
    """
    missing, revision, split, unknown = run(hub, tmp_path, code)
    assert missing.endswith(
        "no such file or folder; there are .gitattributes, README.md, a.jsonl, b.jsonl, images"
    )
    assert "owls/rows has no revision 'v9'" in revision
    assert "data has the splits test, train, not validation; choose one with" in split
    assert "shows no such dataset (HTTP 401)" in unknown


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("hf://owls/seen", "hf://owls/seen: a model; expected hf://datasets/ORG/NAME"),
        ("hf://datasets/owls/tars/source.py:1", "Python code of the hub is not run"),
        ("hf://datasets/owls", r"expected hf://ORG/NAME\[@REVISION\]"),
        ("owls/seen", r"no such file or directory \(of the hub's data sets, hf://datasets/owls"),
    ],
)
def test_other_spellings(spec, expected):
    with pytest.raises(UserError, match=expected):
        open_source(spec)


def test_the_hub_is_not_asked_whether_a_source_is_there():
    assert not is_missing("hf://datasets/owls/seen") and is_missing("owls/seen")
