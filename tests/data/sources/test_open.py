"""What a config names, opened by what lies there."""

import json
import shutil

import pytest
import source_files

from owl_jax.data.sources.array_record import ArrayRecordSource
from owl_jax.data.sources.concatenated import ConcatenatedSource
from owl_jax.data.sources.csv_rows import CsvSource
from owl_jax.data.sources.folder import FolderSource
from owl_jax.data.sources.hugging_face import HuggingFaceSource
from owl_jax.data.sources.json_array import JsonArraySource
from owl_jax.data.sources.json_lines import JsonLinesSource
from owl_jax.data.sources.open import open_source
from owl_jax.data.sources.tar import TarSource
from owl_jax.data.sources.tfds import TfdsSource
from owl_jax.data.synthetic import SyntheticSource
from owl_jax.errors import UserError

KINDS = {
    "json_lines": (JsonLinesSource, 5),
    "json_array": (JsonArraySource, 2),
    "csv": (CsvSource, 2),
    "tar": (TarSource, 4),
    "folder": (FolderSource, 4),
    "array_record": (ArrayRecordSource, 1),
    "saved": (HuggingFaceSource, 3),
    "parquet": (HuggingFaceSource, 3),
    "tfds": (TfdsSource, 4),
    "synthetic": (SyntheticSource, 100_000),
}


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    return source_files.write_all(tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_told_by_what_lies_there(specs, kind, tmp_path):
    source = open_source(specs[kind], index_dir=tmp_path)
    expected, count = KINDS[kind]
    assert type(source) is expected and len(source) == count
    for index in range(min(count, 5)):
        source_files.pixels(source[index])  # with media that are found and can be decoded


@pytest.mark.parametrize("kind", ["tar", "array_record", "parquet", "json_lines", "csv"])
def test_a_folder_and_a_pattern_of_files(specs, kind, tmp_path):
    suffix = specs[kind].rpartition(".")[2]
    for number in (10, 2):
        shutil.copy(specs[kind], tmp_path / f"part {number}.{suffix}")
    folder, pattern = open_source(str(tmp_path)), open_source(f"{tmp_path}/part *.{suffix}")
    single = open_source(specs[kind])
    count = len(single)
    assert len(folder) == len(pattern) == 2 * count
    for source in (folder, pattern):
        texts = [source[i]["text"] for i in range(2 * count)]
        assert texts == [single[i]["text"] for i in range(count)] * 2
        if kind not in ("parquet", "array_record"):
            assert "part 2." in source[0]["where"] and "part 10." in source[count]["where"]


def test_tars_come_before_the_tables_beside_them(specs, tmp_path):
    shutil.copy(specs["tar"], tmp_path / "00000.tar")
    shutil.copy(specs["parquet"], tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    assert type(open_source(str(tmp_path))) is TarSource


def test_tables_in_the_folder_of_a_hub(specs, tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        shutil.copy(specs["parquet"], tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    assert len(open_source(str(tmp_path))) == len(open_source(f"{tmp_path}@test")) == 3


def test_several_directories(specs, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(specs["folder"], tmp_path / name)
    source = open_source(f"{tmp_path}/*")
    assert type(source) is ConcatenatedSource and len(source) == 8


def test_a_split(specs):
    assert len(open_source(f"{specs['tfds']}@test")) == 2
    assert len(open_source(f"{specs['tfds']}@train[:25%]")) == 1


def test_a_name_may_have_signs_in_it(specs, tmp_path):
    for name in ("owls@night", "[owls]*", "a=b,c"):
        path = tmp_path / name / "data.tar"
        path.parent.mkdir()
        shutil.copy(specs["tar"], path)
        assert len(open_source(str(path))) == len(open_source(str(path.parent))) == 4


def test_the_root_of_media(specs, tmp_path):
    (tmp_path / "data.jsonl").write_text(
        json.dumps({"text": source_files.text("<image>"), "image": "1.jpg"})
    )
    source = open_source(str(tmp_path / "data.jsonl"))
    assert source[0]["images"] == [tmp_path / "1.jpg"]
    source = open_source(str(tmp_path / "data.jsonl"), "/media")
    assert str(source[0]["images"][0]) == "/media/1.jpg"
    # Of several files, each has its own.
    (tmp_path / "a").mkdir()
    shutil.move(tmp_path / "data.jsonl", tmp_path / "a" / "data.jsonl")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    source = open_source(f"{tmp_path}/*/data.jsonl")
    assert [source[i]["images"] for i in (0, 1)] == [
        [tmp_path / "a" / "1.jpg"],
        [tmp_path / "b" / "1.jpg"],
    ]


def test_indices_are_kept(specs, tmp_path):
    for kind in ("json_lines", "json_array", "csv", "tar", "parquet"):
        before = {*tmp_path.rglob("*")}
        open_source(specs[kind], index_dir=tmp_path)
        assert {*tmp_path.rglob("*")} > before, kind


def test_the_embedded_data_set():
    source = open_source("synthetic:vqa=3,text_math")
    assert source == SyntheticSource({"vqa": 3, "text_math": 1}, size=100_000, seed=0)
    with pytest.raises(UserError, match="Synthetic kinds are"):
        open_source("synthetic:owls")
    with pytest.raises(UserError, match=r"'many' is no number; expected synthetic:KIND=WEIGHT"):
        open_source("synthetic:vqa=many")


def test_what_is_not_there(tmp_path):
    for spec, found in (
        (f"{tmp_path}/none", "no such file or directory"),
        (f"{tmp_path}/none@train", "no such file or directory"),
        (f"{tmp_path}/*.tar", "no file matches"),
        ("", "no such file or directory"),
    ):
        with pytest.raises(UserError) as error:
            open_source(spec)
        message = str(error.value)
        assert message.startswith(f"{spec}: {found}; expected .jsonl, ") and "\n" not in message


def test_what_is_not_understood(specs, tmp_path):
    (tmp_path / "data.xml").write_text("<owls/>")
    (tmp_path / "data").write_text("owls")
    with pytest.raises(UserError, match=r"data\.xml: found a file \.xml; expected \.jsonl"):
        open_source(str(tmp_path / "data.xml"))
    with pytest.raises(UserError, match=r"data: found a file without suffix; expected \.jsonl"):
        open_source(str(tmp_path / "data"))
    with pytest.raises(UserError, match="no samples; expected pictures or videos, each with"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match=r"found , \.xml files together; give a pattern for one"):
        open_source(f"{tmp_path}/*")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="matches files and directories"):
        open_source(f"{tmp_path}/*")
    for kind in ("json_lines", "tar", "folder", "array_record"):
        with pytest.raises(UserError, match="has no splits; leave @test out"):
            open_source(f"{specs[kind]}@test")
