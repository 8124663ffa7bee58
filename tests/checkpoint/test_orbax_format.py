"""Our own directories: Orbax's, but written and read piece by piece."""

import os
import resource

import directories
import golden
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from owl_jax.checkpoint.hf_import import open_family
from owl_jax.checkpoint.lazy_arrays import device_put_lazy, read
from owl_jax.checkpoint.orbax_format import open_params, write_params
from owl_jax.errors import UserError, disk_full
from owl_jax.parallel.mesh import make_mesh


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_lies_in_files_memory_and_on_devices_is_written_alike(dtype, tmp_path):
    expected = jax.tree.map(lambda x: x.astype(dtype), golden.model(golden.LLAMA)[1])
    stored = open_family(directories.LLAMA).params
    if dtype == "bfloat16":
        stored = jax.tree.map(lambda x: x.astype(dtype), jax.tree.map(read, stored))
    spread = NamedSharding(make_mesh(1, 4, 2), P(None, "fsdp"))
    expected_llm = jax.tree.map(
        lambda x: device_put_lazy(x, None, spread), expected["llm"]["layers"]
    )
    mixed = {**stored, "llm": {**stored["llm"], "layers": expected_llm}}
    for name, params in {"files": stored, "devices": mixed}.items():
        write_params(tmp_path / name, params)
        directories.assert_same_tree(jax.tree.map(read, open_params(tmp_path / name)), expected)
        # It is one of Orbax's directories.
        restored = ocp.PyTreeCheckpointer().restore(
            tmp_path / name,
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), expected),
        )
        directories.assert_same_tree(restored, expected)


def test_parts_of_what_was_written(tmp_path):
    params = golden.model(golden.VIDEO)[1]
    write_params(tmp_path / "params", params)
    opened, random = flatten_dict(open_params(tmp_path / "params")), np.random.default_rng(3)
    for path, array in flatten_dict(params).items():
        starts = [int(random.integers(0, n)) for n in array.shape]
        part = tuple(
            slice(start, int(random.integers(start, n)) + 1)
            for start, n in zip(starts, array.shape, strict=True)
        )
        assert (opened[path].shape, opened[path].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(opened[path][part], array[part])


def test_few_layers_are_in_memory_at_a_time(tmp_path):
    events = []

    class Leaf:
        shape, dtype = (9, 4, 5), np.dtype(np.float32)

        def __getitem__(self, part):
            events.append(("read", tuple(axis.stop - axis.start for axis in part)))
            return np.full((1, 4, 5), part[0].start, np.float32)

    note = lambda nbytes: events.append(("written", nbytes))  # noqa: E731
    write_params(tmp_path / "params", {"x": Leaf(), "y": Leaf()}, note)
    assert sorted(events) == [("read", (1, 4, 5))] * 18 + [("written", 80)] * 18
    held = np.cumsum([1 if what == "read" else -1 for what, _ in events])
    assert held.max() <= 3  # the one that is written, and two ahead
    for leaf in jax.tree.map(read, open_params(tmp_path / "params")).values():
        np.testing.assert_array_equal(leaf[:, 0, 0], np.arange(9))


def test_pieces_larger_than_a_chunk(tmp_path):
    """A matrix is cut into parts of at most 16 MiB, a stack into layers."""
    shapes = {"table": (7001, 1200), "layers": (3, 4, 5), "odd": (4_294_967,), "none": ()}
    params = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    write_params(tmp_path / "params", params)
    opened = open_params(tmp_path / "params")
    chunks = {name: opened[name].store.chunk_layout.read_chunk.shape for name in shapes}
    assert chunks == {"table": (2334, 1200), "layers": (1, 4, 5), "odd": (2147484,), "none": None}
    for name, array in params.items():
        np.testing.assert_array_equal(read(opened[name]), array)


def test_a_full_disk_is_one_error(tmp_path):
    """Files of this process cannot grow beyond a size: the nearest thing to a full disk."""
    stored = {f"x{n}": np.ones((5, 64, 64), np.float32) for n in range(9)}
    params = {**stored, "on a device": jax.numpy.ones((300, 300))}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(ValueError, match="File too large") as error:
            write_params(tmp_path / "params", params)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert disk_full(error.value) and not (tmp_path / "params").exists()


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "bool", "complex64"])
def test_only_floats_pass_as_weights(dtype, tmp_path):
    tree = {"a": np.ones(3, np.float32), "b": {"c": np.ones((2, 3, 4), dtype)}}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "params", tree)
    with pytest.raises(
        UserError, match=f"params: b/c is {dtype}; expected floats: bfloat16, float"
    ):
        open_params(tmp_path / "params")


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "d/fifo"])
def test_a_fifo_is_not_waited_for(name, tmp_path):
    write_params(tmp_path / "params", {"x": np.ones((2, 3, 4), np.float32)})
    (tmp_path / "params" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "params" / name)
    with pytest.raises(UserError, match=r"params: damaged, .*is a FIFO, not a regular file"):
        open_params(tmp_path / "params")


def test_elements_that_are_no_numbers_are_noted(tmp_path):
    array = np.ones((2, 3, 4), np.float32)
    array[1, 2, 3] = np.nan
    write_params(tmp_path / "params", {"x": {"y": array}, "z": array[0]})
    found = {}
    jax.tree.map(read, open_params(tmp_path / "params", found))
    assert found == {"x/y": 1}


def test_damaged_directory_is_told(tmp_path):
    write_params(tmp_path / "params", {"x": np.ones((2, 3, 4), np.float32)})
    for path in (tmp_path / "params").rglob("d/*"):
        path.unlink()
    with pytest.raises(UserError, match="params: damaged, copy the directory again"):
        jax.tree.map(read, open_params(tmp_path / "params"))
    (tmp_path / "params" / "_METADATA").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"
    )
    with pytest.raises(UserError, match=r"/_METADATA: is a Git LFS pointer, .* in its folder$"):
        open_params(tmp_path / "params")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: damaged, copy the directory again"):
        open_params(tmp_path / "empty")
