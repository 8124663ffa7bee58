"""An index as a file: found again while it is whole, made anew otherwise."""

import logging
import os

import numpy as np
import pytest

from owl_jax.data.sources.kept_index import index_file, keep_index, map_index
from owl_jax.errors import UserError

ROWS = np.arange(8).reshape(4, 2)


def test_parts_become_one_array(tmp_path):
    path = tmp_path / "new" / "x.npy"
    keep_index(path, tmp_path / "data", 2, lambda: iter([ROWS[:1], ROWS[1:1], ROWS[1:]]))
    np.testing.assert_array_equal(map_index(path), ROWS)
    np.testing.assert_array_equal(np.load(path), ROWS)
    keep_index(path, tmp_path / "data", 2, lambda: pytest.fail("it is there"))
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize(
    "damage", [b"", b"nonsense", bytes(300), "cut", "another shape", "another index", "FIFO"]
)
def test_what_is_not_whole_is_made_anew(tmp_path, caplog, damage):
    path = tmp_path / "x.npy"
    keep_index(path, tmp_path / "data", 2, lambda: iter([ROWS]))
    whole = path.read_bytes()
    if damage == "another shape":
        np.save(path, ROWS.T)
    elif damage == "another index":
        keep_index(path.with_name("other"), tmp_path / "data", 4, lambda: iter([ROWS.T]))
        path.with_name("other").replace(path)
    elif damage == "FIFO":
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_bytes(whole[:-1] if damage == "cut" else damage)
    with caplog.at_level(logging.WARNING):
        keep_index(path, tmp_path / "data", 2, lambda: iter([ROWS]))
    np.testing.assert_array_equal(map_index(path), ROWS)
    assert caplog.messages == [f"{path}: damaged; the index of {tmp_path}/data is rebuilt"]
    assert path.read_bytes() == whole


def test_a_flipped_bit_anywhere_is_noticed(tmp_path, caplog):
    path = tmp_path / "x.npy"
    keep_index(path, tmp_path / "data", 2, lambda: iter([ROWS]))
    whole = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        for place in range(len(whole)):
            path.write_bytes(
                whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
            )
            keep_index(path, tmp_path / "data", 2, lambda: iter([ROWS]))
            assert path.read_bytes() == whole
    assert len(caplog.messages) == len(whole)


def test_a_search_that_fails_leaves_nothing(tmp_path):
    def find():
        yield ROWS
        raise UserError("the data cannot be read")

    with pytest.raises(UserError, match="the data cannot be read"):
        keep_index(tmp_path / "x.npy", tmp_path / "data", 2, find)
    assert not [*tmp_path.iterdir()]


def test_a_name_for_each_state_of_each_file(tmp_path):
    states = [(9, 1), (9, 2), (8, 1)]
    files = [tmp_path / "a.tar", tmp_path / "b" / "a.tar", tmp_path / ("long" * 60)]
    names = {index_file(tmp_path, file, state, kind) for file in files for state in states
             for kind in (1, 2)}  # fmt: skip
    assert len(names) == 18
    assert all(len(name.name) < 100 and name.parent == tmp_path for name in names)
