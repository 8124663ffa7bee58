"""The index of a tar: found once, kept, found anew when the tar changes."""

import os

import numpy as np
import pytest
import source_files

from owl_jax.data.sources.tar_index import count_samples, index_tar, load_index
from owl_jax.errors import UserError


def test_headers_by_sample(tmp_path):
    members = {"1.txt": "a" * 600, "2.txt": "b", "1.jpg": b"", "x": "", "3.txt": ""}
    path = source_files.write_tar(tmp_path / "x.tar", members)
    index = index_tar(path, None)
    assert index.dtype == np.int64
    # A header takes 512 bytes, and so do contents, or a multiple.
    assert index.tolist() == [[0, 0], [512 * 5, 0], [512 * 3, 1], [512 * 7, 2]]
    assert count_samples(index) == 3


def test_an_index_is_kept_and_mapped(tmp_path):
    path = source_files.write_tar(tmp_path / "x.tar", source_files.samples(tmp_path))
    expected = index_tar(path, None)
    kept = index_tar(path, tmp_path / "index")
    assert [*(tmp_path / "index").iterdir()] == [kept]
    assert not load_index(kept).flags.owndata
    np.testing.assert_array_equal(load_index(kept), expected)
    stamp = kept.stat().st_mtime_ns
    assert index_tar(path, tmp_path / "index") == kept and kept.stat().st_mtime_ns == stamp


def test_a_tar_that_changed_is_read_anew(tmp_path):
    path = source_files.write_tar(tmp_path / "x.tar", {"1.txt": "a", "2.txt": "b"})
    assert count_samples(load_index(index_tar(path, tmp_path / "index"))) == 2
    size = path.stat().st_size
    source_files.write_tar(path, {"1.txt": "a"})
    assert path.stat().st_size == size  # tars are padded: the time tells
    assert count_samples(load_index(index_tar(path, tmp_path / "index"))) == 1


@pytest.mark.parametrize("damage", [b"", b"nonsense", None], ids=["empty", "nonsense", "cut"])
def test_a_damaged_index_is_made_anew(tmp_path, damage):
    path = source_files.write_tar(tmp_path / "x.tar", {"1.txt": "a", "2.txt": "b"})
    kept = index_tar(path, tmp_path / "index")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-8] if damage is None else damage)
    assert count_samples(load_index(index_tar(path, tmp_path / "index"))) == 2
    assert [*(tmp_path / "index").iterdir()] == [kept] and kept.read_bytes() == whole


@pytest.mark.parametrize("members", [{}, {"README": "x"}])
def test_a_tar_without_samples(tmp_path, members):
    path = source_files.write_tar(tmp_path / f"{'long ' * 48}.tar", members)
    assert load_index(index_tar(path, tmp_path / "index")).shape == (0, 2)


def test_tars_of_one_name_in_two_folders(tmp_path):
    for n in (1, 2):
        (tmp_path / str(n)).mkdir()
        members = {f"{i}.txt": "x" for i in range(n)}
        path = source_files.write_tar(tmp_path / str(n) / "x.tar", members)
        os.utime(path, ns=(1, 1))
        assert count_samples(load_index(index_tar(path, tmp_path / "index"))) == n


def test_an_index_that_cannot_be_written(tmp_path):
    path = source_files.write_tar(tmp_path / "x.tar", {"1.txt": "a"})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the index of .*x\.tar cannot be written"):
        index_tar(path, tmp_path / "file" / "index")
