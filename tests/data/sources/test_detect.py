"""What a config names, opened by what lies there."""

import json
import shutil

import pytest
import source_files

from owl_jax.data.sources.array_record import ArrayRecordSource
from owl_jax.data.sources.concatenated import ConcatenatedSource
from owl_jax.data.sources.csv_rows import CsvSource
from owl_jax.data.sources.custom import CustomRecords
from owl_jax.data.sources.detect import is_missing, open_source
from owl_jax.data.sources.folder import FolderSource
from owl_jax.data.sources.hugging_face import HuggingFaceSource
from owl_jax.data.sources.json_array import JsonArraySource
from owl_jax.data.sources.json_lines import JsonLinesSource
from owl_jax.data.sources.tar import TarSource
from owl_jax.data.sources.tfds import TfdsSource
from owl_jax.demo.synthetic import SyntheticSource
from owl_jax.errors import UserError, printable

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
    "synthetic": (CustomRecords, 100_000),
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
        record = source[index]
        source_files.pixels(record)  # with media that are found and can be decoded
        if kind != "array_record":
            assert source.where(index) == record["where"]


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
    """As img2dataset writes them."""
    for number in range(2):
        shutil.copy(specs["tar"], tmp_path / f"0000{number}.tar")
        shutil.copy(specs["parquet"], tmp_path / f"0000{number}.parquet")
        (tmp_path / f"0000{number}_stats.json").write_text('{"count": 4}')
    source = open_source(str(tmp_path))
    assert type(source) is TarSource and len(source) == 8
    shutil.copy(specs["parquet"], tmp_path / "00002.parquet")
    with pytest.raises(
        UserError, match=r"several kinds of data \(2 \.tar, 1 \.parquet\); give a pattern"
    ):
        open_source(str(tmp_path))


def test_several_kinds_in_a_folder_are_refused(specs, tmp_path):
    shutil.copy(specs["json_lines"], tmp_path / "b.jsonl")
    shutil.copy(specs["json_lines"], tmp_path / "a.NDJSON")
    for name in ("README.md", "notes.txt", "1.jpg", "LICENSE", ".hidden.csv"):
        (tmp_path / name).write_text("none of them is data")
    (tmp_path / "dataset_infos.json").write_text('{"default": {}}')
    source = open_source(str(tmp_path))
    assert len(source) == 10 and source.where(0) == f"{tmp_path}/a.NDJSON:1"
    shutil.copy(specs["csv"], tmp_path / "c.tsv")
    shutil.copy(specs["json_array"], tmp_path / "d.json")
    with pytest.raises(UserError) as error:
        open_source(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}: found several kinds of data (2 .jsonl, 1 .csv, 1 .json); give a pattern for "
        f"one, such as {tmp_path}/*.jsonl, or move the others away"
    )
    assert len(open_source(f"{tmp_path}/*.json*l")) == 5


def test_a_folder_of_json_arrays(specs, tmp_path):
    for name in ("2.json", "10.json"):
        shutil.copy(specs["json_array"], tmp_path / name)
    (tmp_path / "1.jpg").write_bytes(source_files.picture(1))
    source = open_source(str(tmp_path))
    assert len(source) == 4 and source.where(0) == f"{tmp_path}/2.json:2"


def test_a_folder_of_samples_with_json(tmp_path):
    """The words of a sample are in a file that may hold anything, even an array."""
    source_files.write_files(tmp_path, {"1.jpg": b"", "1.json": "[]", "2.json": '{"text": "x"}'})
    source = open_source(str(tmp_path))
    assert type(source) is FolderSource and len(source) == 2
    (tmp_path / "data.csv").write_text("text\nowl\n")
    expected = r"several kinds of data \(1 \.csv, media with texts of the same names\); give"
    with pytest.raises(UserError, match=expected):
        open_source(str(tmp_path))


@pytest.mark.parametrize("head", ["", "\ufeff", "\n \n"])
def test_json_lines_may_be_called_json(tmp_path, head):
    line = json.dumps({"text": source_files.text()})
    path = tmp_path / "data.json"
    path.write_text(f"{head}{line}\n{line}", encoding="utf-8")
    source = open_source(str(path))
    assert type(source) is JsonLinesSource and len(source) == 2
    assert source[1]["text"] == source_files.text()


@pytest.mark.parametrize("words", ['{\n  "images": []\n}', "words", '{"images"'])
def test_json_that_is_neither(tmp_path, words):
    (tmp_path / "data.json").write_text(words)
    with pytest.raises(UserError, match=r"begins with '.'; expected one JSON array of objects"):
        open_source(str(tmp_path / "data.json"))


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
    source = open_source(f"{source_files.EMBEDDED}:vqa=3,text_math")
    assert source.custom == SyntheticSource({"vqa": 3, "text_math": 1}, size=100_000, seed=0)
    with pytest.raises(UserError, match="Synthetic kinds are"):
        open_source(f"{source_files.EMBEDDED}:owls")
    with pytest.raises(UserError, match=r"'many' is not a number; expected KIND=WEIGHT"):
        open_source(f"{source_files.EMBEDDED}:vqa=many")


@pytest.mark.parametrize("call", [open_source, is_missing])
def test_its_former_spelling_names_the_new_one(call):
    with pytest.raises(UserError, match=r"write configs/demo/synthetic\.py:vqa=2,video$"):
        call("synthetic:vqa=2,video")


def test_what_is_not_there(tmp_path):
    for spec, found in (
        (f"{tmp_path}/none", "no such file or directory"),
        (f"{tmp_path}/none@train", "no such file or directory"),
        (f"{tmp_path}/*.tar", "no file matches"),
        ("", "no such file or directory"),
        (f"{tmp_path}/{'owl' * 100}", "no such file or directory"),
        (f"{tmp_path}/{'owl' * 100}*.tar", "no file matches"),
        (f"{tmp_path}/\0", "no such file or directory"),
        ("{}", "no such file or directory"),
    ):
        assert is_missing(spec)
        with pytest.raises(UserError) as error:
            open_source(spec)
        message = str(error.value)
        assert message.startswith(f"{printable(spec)}: {found}; expected .jsonl, ")
        assert "\n" not in message


def test_what_is_not_understood(specs, tmp_path):
    (tmp_path / "data.xml").write_text("<owls/>")
    (tmp_path / "data").write_text("owls")
    with pytest.raises(UserError, match=r"data\.xml: found a \.xml file; expected \.jsonl"):
        open_source(str(tmp_path / "data.xml"))
    with pytest.raises(UserError, match=r"data: found a file without suffix; expected \.jsonl"):
        open_source(str(tmp_path / "data"))
    with pytest.raises(UserError, match="no samples; expected pictures or videos, each next"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match=r"found , \.xml files together; give a pattern for one"):
        open_source(f"{tmp_path}/*")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="matches files and directories"):
        open_source(f"{tmp_path}/*")
    for kind in ("json_lines", "tar", "folder", "array_record"):
        with pytest.raises(UserError, match="has no splits; remove @test"):
            open_source(f"{specs[kind]}@test")
