"""The data files of a directory."""

import pytest
import source_files

from owl_jax.data.sources.kinds import files_of_one_kind, is_json_lines


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], []),
        (["README.md", "1.jpg", "1.txt", ".a.csv", "b.npy"], []),
        (["10.csv", "2.CSV", "c.tsv"], ["2.CSV", "10.csv", "c.tsv"]),
        (["data/train.parquet", "data/a/b.parquet"], ["data/a/b.parquet", "data/train.parquet"]),
        (["1.tar", "1.parquet", "sub/data.csv"], ["1.tar"]),
        (["a.jsonl", "1.jpg", "2.txt"], ["a.jsonl"]),
        (["a.jsonl/1.txt"], []),
    ],
)
def test_what_counts(tmp_path, names, found):
    source_files.write_files(tmp_path, dict.fromkeys(names, ""))
    assert files_of_one_kind(tmp_path) == [tmp_path / name for name in found]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ('{"a": 1}\n{"a": 2}', True),
        ('\n  {"a": {}} \n', True),
        ('[{"a": 1}]', False),
        ('{\n"a": 1}', False),
        ('{"a": 1,\n"b": 2}', False),
        ("", False),
    ],
)
def test_json_lines_are_told_by_the_first(tmp_path, words, expected):
    (tmp_path / "data.json").write_text(words)
    assert is_json_lines(tmp_path / "data.json") is expected
