"""Safetensors files written tensor by tensor are those that the library reads."""

import itertools
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from owl_jax.checkpoint.safetensors_writer import write_file, write_shards
from owl_jax.checkpoint.tensors import Outgoing


def _outgoing(tensors, events=None):
    def read(name):
        if events is not None:
            events.append(name)
        return tensors[name]

    return [
        Outgoing(name, value.shape, value.dtype, lambda name=name: read(name))
        for name, value in tensors.items()
    ]


def _tensors():
    random = np.random.default_rng(0)
    draw = lambda dtype, *shape: random.normal(0, 50, shape).astype(dtype)  # noqa: E731
    return {
        "odd": draw("int8", 3),
        "narrow": draw(ml_dtypes.bfloat16, 5, 7),
        "scalar": draw("float32"),
        "half": draw("float16", 1, 3, 1),
        "wide": draw("float64", 2, 2),
        "empty": draw("float32", 0, 4),
        "count": draw("int64", 3),
        "transposed": draw("float32", 6, 4).T,
    }


def test_library_reads_the_same_bits(tmp_path):
    tensors = _tensors()
    write_file(_outgoing(tensors), tmp_path / "x.safetensors")
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (value.dtype, value.shape)
        assert loaded[name].tobytes() == value.tobytes()
    with safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses a file without it
    # Aligned: programs that map the file into memory see whole numbers.
    content = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    for name, value in tensors.items():
        assert header[name]["data_offsets"][0] % value.dtype.itemsize == 0


def test_few_tensors_are_in_memory_at_a_time(tmp_path):
    tensors = {f"t{i:02}": np.full(i + 1, i, np.float32) for i in range(20)}
    events = []
    write_shards(_outgoing(tensors, events), tmp_path, shard_bytes=10_000, progress=events.append)
    names = [event for event in events if isinstance(event, str)]
    written = [event for event in events if not isinstance(event, str)]
    assert sorted(names) == sorted(tensors)
    assert written == [value.nbytes for value in tensors.values()]
    held = np.cumsum([1 if isinstance(event, str) else -1 for event in events])
    assert held.max() <= 3  # the one that is written, and two ahead


@pytest.mark.parametrize("shard_bytes", [100, 200, 256, 300, 10_000])
def test_index_says_where_everything_is(shard_bytes, tmp_path):
    tensors = {f"t{i}": np.full(i % 7 * 10 + 1, i, np.float32) for i in range(20)}
    write_shards(_outgoing(tensors), tmp_path, "part", shard_bytes)
    if shard_bytes == 10_000:
        assert [path.name for path in tmp_path.iterdir()] == ["part.safetensors"]
        assert load_file(tmp_path / "part.safetensors").keys() == tensors.keys()
        return
    index = json.loads((tmp_path / "part.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(value.nbytes for value in tensors.values())}
    assert index["weight_map"].keys() == tensors.keys()
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    count = len(files)
    assert count > 2
    assert files == [f"part-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    held = {name: load_file(tmp_path / name) for name in files}
    for name, value in tensors.items():
        np.testing.assert_array_equal(held[index["weight_map"][name]][name], value)
    assert sum(map(len, held.values())) == len(tensors)
    sizes = [sum(value.nbytes for value in file.values()) for file in held.values()]
    # Only a tensor that is larger than a shard makes it larger.
    for size, file in zip(sizes, held.values(), strict=True):
        assert size <= shard_bytes or len(file) == 1
    # No two neighbours would have fitted into one.
    assert all(a + b > shard_bytes for a, b in itertools.pairwise(sizes))
