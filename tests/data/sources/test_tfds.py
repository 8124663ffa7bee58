"""TensorFlow Datasets' directories, without TensorFlow."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import source_files

from owl_jax.data.sources.tfds import TfdsSource
from owl_jax.errors import BadData, UserError


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A directory of each format that has random access."""
    folder = tmp_path_factory.mktemp("tfds")
    formats = ("array_record", "parquet")
    return {name: source_files.write_tfds(folder / name, name) for name in formats}


@pytest.mark.parametrize("file_format", ["array_record", "parquet"])
def test_examples_are_records(directories, file_format):
    directory = directories[file_format]
    source = TfdsSource(directory, "train", directory)
    records = [source[i] for i in range(len(source))]
    # The library shuffles what it writes.
    records.sort(key=lambda record: len(record["images"]))
    for number, record in enumerate(records):
        assert record["images"] == [source_files.picture(number + i) for i in range(number)]
        assert all(type(image) is bytes for image in record["images"])
        marks = "Human: <image>\n" * number
        assert record["text"].endswith(f"{marks}Human: How many öwls? 4\nAI: {number}, I think.")
    assert source[1]["where"] == f"{directory}@train:1"


def test_a_split_or_a_part_of_it(directories):
    directory = directories["array_record"]
    assert "öwls? 2" in TfdsSource(directory, "test", directory)[0]["text"]
    assert len(TfdsSource(directory, "train[:50%]", directory)) == 2


@pytest.mark.parametrize("file_format", ["array_record", "parquet"])
def test_a_source_travels_to_workers(directories, file_format):
    source = TfdsSource(directories[file_format], "train", directories[file_format])
    data = pickle.dumps(source)
    assert len(data) < 1_000
    again = pickle.loads(data)
    assert [again[i] for i in range(4)] == [source[i] for i in range(4)]


def test_tensorflow_is_not_imported_and_nothing_is_left_at_home(directories, tmp_path):
    script = f"""
import pathlib, sys
from owl_jax.data.sources.tfds import TfdsSource
for directory in {[str(directory) for directory in directories.values()]!r}:
    source = TfdsSource(pathlib.Path(directory), "train", pathlib.Path("."))
    assert sum(len(source[i]["images"]) for i in range(4)) == 6
assert not {{"torch", "tensorflow", "jax"}} & {{*sys.modules}}
"""
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path / "home")},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [*(tmp_path / "home").iterdir()] == []


@pytest.fixture
def copied(directories, tmp_path):
    """A directory that a test may spoil."""
    return shutil.copytree(directories["array_record"], tmp_path / "1.0.0")


def test_a_format_without_random_access(copied):
    info = json.loads((copied / "dataset_info.json").read_text())
    (copied / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(
        UserError, match=r"is in the format tfrecord, .* is installed: tfds convert_"
    ):
        TfdsSource(copied, "train", copied)


def test_a_feature_that_needs_tensorflow(copied):
    features = json.loads((copied / "features.json").read_text())
    features["featuresDict"]["features"]["video"] = {
        "pythonClassName": "tensorflow_datasets.core.features.video_feature.Video",
        "video": {"shape": {"dimensions": ["-1", "8", "8", "3"]}, "dtype": "uint8"},
    }
    (copied / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match="a feature that cannot be read without TensorFlow"):
        TfdsSource(copied, "train", copied)


def test_a_shard_cut_short(copied):
    (shard,) = copied.glob("*train*")
    shard.write_bytes(shard.read_bytes()[:-100])
    source = TfdsSource(copied, "train", copied)
    with pytest.raises(BadData, match=r"1\.0\.0@train:0: ") as error:
        source[0]
    assert error.value.reason == "damaged record"


def test_what_cannot_be_opened(copied):
    with pytest.raises(UserError, match=r"@dev: cannot be opened \(Unknown split 'dev'. Should be"):
        TfdsSource(copied, "dev", copied)
    with pytest.raises(UserError, match=r"1\.0\.0@train\[: cannot be opened"):
        TfdsSource(copied, "train[", copied)
    with pytest.raises(UserError, match="test"):
        TfdsSource(copied, "test[0:0]", copied)
    (copied / "features.json").write_text("{")
    with pytest.raises(UserError, match="cannot be opened"):
        TfdsSource(copied, "train", copied)


def test_without_the_package(copied, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"tensorflow-datasets; pip install 'owl_jax\[data\]'"):
        TfdsSource(copied, "train", copied)
