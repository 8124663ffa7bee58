"""Hugging Face `datasets`: directories of save_to_disk and parquet files."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import source_files

from owl_jax.data.sources.hugging_face import choose_split, open_parquet, open_saved
from owl_jax.errors import BadData, UserError


def _answers(source):
    return [source[i]["text"].rpartition("AI: ")[2] for i in range(len(source))]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A saved data set of three rows, one with splits, and parquet files of two splits."""
    folder = tmp_path_factory.mktemp("tables")
    source_files.write_table(folder / "saved")
    saved = datasets.load_from_disk(str(folder / "saved"))
    splits = {"train": saved, "test": saved.select([2])}
    datasets.DatasetDict(splits).save_to_disk(folder / "splits")
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        source_files.write_table(folder / "hub" / f"{name}.parquet", rows=2)
    return folder


def test_a_saved_data_set(tables):
    source = open_saved(tables / "saved", None, tables)
    assert _answers(source) == ["saved 0", "saved 1", "saved 2"]
    # As they are stored: nothing has decoded them.
    assert source[2]["images"] == [source_files.picture(2), source_files.picture(3)]
    assert source[2]["where"] == f"{tables}/saved:2"
    assert "images" not in source[0] or source[0]["images"] == []


@pytest.mark.parametrize(
    ("split", "answers"), [(None, ["saved 0", "saved 1", "saved 2"]), ("test", ["saved 2"])]
)
def test_a_split_of_a_saved_data_set(tables, split, answers):
    source = open_saved(tables / "splits", split, tables)
    assert _answers(source) == answers
    assert source[0]["where"] == f"{tables}/splits@{split or 'train'}:0"


def test_parquet_files_of_a_split(tables, tmp_path):
    files = sorted((tables / "hub").glob("*.parquet"))
    source = open_parquet(files, None, tables, tmp_path / "index")
    names = [f"train-0000{n}-of-00002 {row}" for n in (0, 1) for row in (0, 1)]
    assert _answers(source) == names
    assert source[3]["images"] == [source_files.picture(1)]
    assert len(open_parquet(files, "test", tables, tmp_path / "index")) == 2


def test_parquet_is_written_as_arrow_once(tmp_path):
    path = tmp_path / "x.parquet"
    source_files.write_table(path)
    open_parquet([path], None, tmp_path, tmp_path / "index")
    (arrow,) = (tmp_path / "index").rglob("*.arrow")
    stamp = arrow.stat().st_mtime_ns
    assert len(open_parquet([path], None, tmp_path, tmp_path / "index")) == 3
    assert arrow.stat().st_mtime_ns == stamp
    source_files.write_table(path, rows=2)
    assert len(open_parquet([path], None, tmp_path, tmp_path / "index")) == 2


def test_without_an_index_directory_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    source_files.write_table(tmp_path / "x.parquet")
    source = open_parquet([tmp_path / "x.parquet"], None, tmp_path)
    assert _answers(source) == ["x 0", "x 1", "x 2"]
    assert [*(tmp_path / "temporary").rglob("*.arrow")]
    del source
    assert not [*(tmp_path / "temporary").iterdir()]


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_a_source_travels_to_workers(tables, tmp_path, kind):
    if kind == "saved":
        source = open_saved(tables / "saved", None, tables)
    else:
        source = open_parquet([*(tables / "hub").glob("test*")], None, tables, tmp_path / "index")
    data = pickle.dumps(source)
    assert len(data) < 10_000  # where the rows lie, not the rows
    again = pickle.loads(data)
    assert [again[i] for i in range(2)] == [source[i] for i in range(2)]


def test_a_file_without_rows_among_others(tmp_path):
    for name, captions in (("a", []), ("b", ["One."])):
        images = ["1.jpg"] * len(captions)
        table = pyarrow.table({"image": images, "caption": captions})
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
    source = open_parquet([tmp_path / "a.parquet", tmp_path / "b.parquet"], None, tmp_path)
    assert _answers(source) == ["One."]


def test_columns_are_values_of_every_form(tmp_path):
    columns = {
        "image": [{"bytes": None, "path": "1.jpg"}, {"bytes": b"x", "path": "2.jpg"}, None],
        "caption": ["One.", "Two.", "Three."],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    source = open_parquet([tmp_path / "x.parquet"], None, tmp_path / "media")
    assert source[0]["images"] == [tmp_path / "media" / "1.jpg"]
    assert source[1]["images"] == [b"x"]
    with pytest.raises(BadData, match=r"x\.parquet:2: "):
        source[2]


def test_nothing_is_asked_of_the_network_or_left_at_home(tables, tmp_path):
    script = f"""
import pathlib, socket, sys
def refuse(*_): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
from owl_jax.data.sources.hugging_face import open_parquet, open_saved
files = sorted(pathlib.Path({str(tables / "hub")!r}).glob("train*"))
source = open_parquet(files, None, pathlib.Path("."), pathlib.Path({str(tmp_path / "index")!r}))
assert len(source) == 4 and len(source[3]["images"]) == 1
assert len(open_saved(pathlib.Path({str(tables / "splits")!r}), None, pathlib.Path("."))) == 3
assert not {{"torch", "tensorflow", "jax"}} & {{*sys.modules}}
"""
    (tmp_path / "home").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "home")}
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [*(tmp_path / "home").iterdir()] == []


def test_splits_that_are_not_there(tables):
    with pytest.raises(UserError, match=r"splits has the splits train, test, not dev; choose one"):
        open_saved(tables / "splits", "dev", tables)
    with pytest.raises(UserError, match=r"saved has no splits; remove @dev"):
        open_saved(tables / "saved", "dev", tables)
    with pytest.raises(UserError, match=r"hub has the splits test, train, not dev"):
        open_parquet([*(tables / "hub").iterdir()], "dev", tables)
    assert choose_split(None, ["only"], tables) == "only"
    with pytest.raises(UserError, match="has the splits a, b, not train"):
        choose_split(None, ["a", "b"], tables)


def test_what_is_no_table(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_text("words")
    with pytest.raises(UserError, match=r"x\.parquet: not a parquet file, or cut short"):
        open_parquet([path], None, tmp_path)
    for name, columns in (("x", {"a": [1]}), ("y", {"a": [1], "b": [2]})):
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match=r"y\.parquet has the columns a, b, .*x\.parquet has a;"):
        open_parquet([path, tmp_path / "y.parquet"], None, tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"caption": []}), path)
    with pytest.raises(UserError, match=r"x\.parquet: no rows"):
        open_parquet([path], None, tmp_path)
    (tmp_path / "saved").mkdir()
    with pytest.raises(UserError, match="saved: cannot be read"):
        open_saved(tmp_path / "saved", None, tmp_path)


def test_a_saved_data_set_cut_short(tables, tmp_path):
    source_files.write_table(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:-1000])
    with pytest.raises(UserError, match="saved: cannot be read"):
        open_saved(tmp_path / "saved", None, tmp_path)


def test_without_the_package(tables, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    expected = r"needs the package datasets; pip install 'owl_jax\[data\]'"
    with pytest.raises(UserError, match=expected):
        open_saved(tables / "saved", None, tables)
    with pytest.raises(UserError, match=expected):
        open_parquet([Path("x.parquet")], None, tables)
