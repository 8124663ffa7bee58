"""An index is found once, kept beside the run, shared by processes, and made anew for new data."""

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import source_files

from owl_jax.data.sources.csv_rows import CsvSource
from owl_jax.data.sources.index import IndexedFile
from owl_jax.data.sources.json_array import JsonArraySource
from owl_jax.data.sources.json_lines import JsonLinesSource, scan_lines
from owl_jax.data.sources.open import open_source
from owl_jax.errors import BadData, UserError


def open_lines(path, index_dir=None, scan=scan_lines, name="lines"):
    return IndexedFile(path, scan, name, "lines", index_dir)


def records(file):
    return [file.read(number) for number in range(len(file))]


def scan_pairs(file):
    """Records of two bytes, the third one broken; in parts, some of them empty."""
    yield np.zeros((0, 3), np.int64)
    yield np.array([[0, 2, 1]])
    yield np.array([[2, 4, 7], [4, -1, 8]])


def scan_nothing(file):
    yield np.zeros((0, 3), np.int64)


def fail_to_scan(file):
    yield np.array([[0, 2, 1]])
    raise AssertionError("scanned again")


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"one\n\ntwo\n")
    return path


@pytest.mark.parametrize("kept", [False, True])
def test_records_lie_where_the_scan_says(data, tmp_path, kept):
    file = open_lines(data, tmp_path / "index" if kept else None, scan_pairs)
    assert len(file) == 3
    assert [file.where(number) for number in range(3)] == [f"{data}:{line}" for line in (1, 7, 8)]
    assert [file.read(number) for number in (1, 0)] == [b"e\n", b"on"]
    with pytest.raises(BadData, match=r"data\.jsonl:8: broken or cut short from here on") as error:
        file.read(2)
    assert error.value.reason == "cut short"
    assert file.where(-1) == file.where(2)
    for call in (file.where, file.read):
        with pytest.raises(IndexError):
            call(3)


def test_records_of_one_line_are_told_apart(data):
    def scan(file):
        yield np.array([[0, 1, 1], [1, 2, 1], [2, 3, 2], [3, 4, 3], [5, -1, 3]])

    file = open_lines(data, None, scan)
    places = [file.where(number).removeprefix(f"{data}:") for number in range(5)]
    assert places == ["1[0]", "1[1]", "2", "3[3]", "3[4]"]
    with pytest.raises(BadData, match=r"data\.jsonl:3\[4\]: broken"):
        file.read(4)


def test_an_index_is_found_again_and_is_one_file_beside_the_run(data, tmp_path):
    index_dir = tmp_path / "runs" / "index"
    expected = records(open_lines(data, index_dir))
    (kept,) = index_dir.iterdir()
    assert kept.name.startswith("data.jsonl.") and kept.suffix == ".npy"
    np.testing.assert_array_equal(np.load(kept), [[0, 3, 1], [5, 8, 3]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "runs"]
    assert records(open_lines(data, index_dir, fail_to_scan)) == expected == [b"one", b"two"]


def test_another_scan_has_another_index(data, tmp_path):
    assert len(open_lines(data, tmp_path / "index")) == 2
    assert len(open_lines(data, tmp_path / "index", scan_pairs, "pairs")) == 3


@pytest.mark.parametrize("words", [b"one\ntwo\nsix\n", b"new\n\nold\n"], ids=["longer", "as long"])
def test_a_changed_file_is_indexed_anew(data, tmp_path, words):
    open_lines(data, tmp_path / "index")
    data.write_bytes(words)
    os.utime(data, ns=(1, 1))
    assert records(open_lines(data, tmp_path / "index")) == words.split()
    assert len(list((tmp_path / "index").iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"nonsense", None], ids=["empty", "nonsense", "cut"])
def test_a_damaged_index_is_made_anew(data, tmp_path, damage):
    open_lines(data, tmp_path / "index")
    (kept,) = (tmp_path / "index").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-8] if damage is None else damage)
    assert records(open_lines(data, tmp_path / "index")) == [b"one", b"two"]
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("kept", [False, True])
def test_a_file_that_changes_while_it_is_in_use_is_refused(data, tmp_path, kept):
    file = open_lines(data, tmp_path / "index" if kept else None)
    travelled = pickle.loads(pickle.dumps(file))
    data.write_bytes(b"one\n\ntwo\nsix\n")
    for user in (file, travelled):
        with pytest.raises(UserError, match=r"data\.jsonl: was changed while it was in use"):
            user.read(0)
    data.unlink()
    with pytest.raises(UserError, match=r"data\.jsonl: cannot be read \(No such file"):
        file.read(0)


def test_a_file_that_is_still_written_to_is_refused(data, tmp_path):
    def scan(file):
        yield from scan_lines(file)
        data.write_bytes(b"one\n\ntwo\nsix\n")

    with pytest.raises(UserError, match="was changed while it was in use"):
        open_lines(data, tmp_path / "index", scan)
    assert not list((tmp_path / "index").iterdir())


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_missing_or_empty_is_told(data, tmp_path, kept):
    index_dir = tmp_path / "index" if kept else None
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read \(No such file"):
        open_lines(tmp_path / "none.jsonl", index_dir)
    with pytest.raises(UserError, match="cannot be read"):
        open_lines(tmp_path, index_dir)
    for _ in range(2):
        with pytest.raises(UserError, match=r"data\.jsonl: empty; expected lines"):
            open_lines(data, index_dir, scan_nothing)
    if kept:
        assert not list(index_dir.iterdir())


def test_an_index_that_cannot_be_kept_is_told(data):
    with pytest.raises(UserError, match=r"the index of .*data\.jsonl cannot be written \("):
        open_lines(data, data / "index")


@pytest.mark.parametrize("kept", [False, True])
def test_pickled_are_paths_and_not_the_index(tmp_path, kept):
    data = tmp_path / "data.jsonl"
    data.write_bytes(b"".join(b"%d\n" % number for number in range(10_000)))
    file = open_lines(data, tmp_path / "index" if kept else None)
    pickled = pickle.dumps(file)
    assert len(pickled) < 1000
    assert records(pickle.loads(pickled)) == records(file)


MAKE = {
    "data.jsonl": (JsonLinesSource, b'{"text": "AI: %d"}\n', b"", b""),
    "data.json": (JsonArraySource, b'{"text": "AI: %d"},\n', b"[", b"{}]"),
    "data.csv": (CsvSource, b'"AI: %d"\n', b"text\n", b""),
}


@pytest.fixture(params=MAKE)
def source(request, tmp_path):
    make, line, head, tail = MAKE[request.param]
    path = tmp_path / request.param
    path.write_bytes(head + b"".join(line % number for number in range(500)) + tail)
    return make(path, tmp_path, tmp_path / "index")


def test_threads_get_the_same_records(source):
    numbers = np.random.default_rng(0).permutation(np.repeat(np.arange(500), 4)).tolist()
    with ThreadPoolExecutor(8) as threads:
        for number, record in zip(numbers, threads.map(source.__getitem__, numbers), strict=True):
            assert record["text"] == f"AI: {number}"
            assert record == source[number]


def test_another_process_gets_the_same_records(source, tmp_path):
    (tmp_path / "source").write_bytes(pickle.dumps(source))
    code = (
        "import pickle, sys\n"
        "source = pickle.load(open(sys.argv[1] + '/source', 'rb'))\n"
        "records = [source[number] for number in range(499, -1, -7)]\n"
        "pickle.dump(records, open(sys.argv[1] + '/records', 'wb'))\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    found = pickle.loads((tmp_path / "records").read_bytes())
    assert found == [source[number] for number in range(499, -1, -7)]


def test_processes_that_index_at_once_find_the_same(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_bytes(b'{"text": "AI: x"}\n' * 200_000)
    code = (
        "import sys\n"
        "from owl_jax.data.sources.json_lines import JsonLinesSource\n"
        "from pathlib import Path\n"
        "data = Path(sys.argv[1])\n"
        "source = JsonLinesSource(data, data.parent, data.parent / 'index')\n"
        "assert len(source) == 200_000 and source[199_999]['where'].endswith(':200000')\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(data)]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in started] == [0, 0, 0]
    assert len(list((tmp_path / "index").iterdir())) == 1


def write_20_megabytes(path: Path) -> int:
    """A file of the kind that its suffix says, of long and short lines; its number of records."""
    _, line, head, tail = MAKE[f"data{path.suffix}"]
    long = line.replace(b"%d", b"owl " * 1000)
    with path.open("wb") as file:
        file.write(head)
        for number in range(5000):
            file.write(long)
            file.write(line % number)
        file.write(tail)
    assert path.stat().st_size > 20_000_000
    return 10_000 + (path.suffix == ".json")


@pytest.mark.parametrize("name", MAKE)
def test_memory_does_not_hold_the_file(tmp_path, name):
    count = write_20_megabytes(tmp_path / name)
    tracemalloc.start()
    try:
        source = MAKE[name][0](tmp_path / name, tmp_path, tmp_path / "index")
        assert len(source) == count
        for number in range(1, count, 50):
            assert source[number]["text"] == f"AI: {number // 2}"
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000
    assert held < 500_000


def test_a_record_of_a_whole_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("owl_jax.data.sources.index.LARGEST_RECORD", 1000)
    words = json.dumps({"question": "q" * 2000, "answer": "a"})
    (tmp_path / "lines.jsonl").write_text(words)
    (tmp_path / "array.json").write_text(f"[{words}]")
    (tmp_path / "table.csv").write_text(f"question,answer\n{'q' * 2000},a\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.json").write_text(words)
    source_files.write_tar(tmp_path / "x.tar", {"1.json": words})
    for name in ("lines.jsonl", "array.json", "table.csv", "folder", "x.tar"):
        with pytest.raises(BadData, match=r"\d,\d{3} bytes; a record may have 1,000") as told:
            open_source(str(tmp_path / name))[0]
        assert told.value.reason == "record too large"
        assert str(told.value).count("bytes") == 1
