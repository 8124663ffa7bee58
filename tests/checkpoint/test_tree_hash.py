"""The hash of a tree: its definition, and the changes that it detects."""

import hashlib
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from owl_jax.checkpoint import tree_hash as hashing
from owl_jax.checkpoint.tree_hash import tree_hash
from owl_jax.parallel.mesh import make_mesh


@pytest.fixture(autouse=True, params=["small", "large"])
def _arrays_count_as(request, monkeypatch):
    """Small arrays are summed by NumPy, large ones on the devices; these are small."""
    if request.param == "large":
        monkeypatch.setattr(hashing, "_LEAST_ON_DEVICE", 0)


def reference_hash(leaves):
    """The definition in NumPy: {path: array} to the hash."""
    lines = []
    for path, array in sorted(leaves.items()):
        unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32}[array.dtype.itemsize]
        bits = array.reshape(-1).view(unsigned).astype(np.uint32)
        if array.dtype.kind == "i":
            bits = array.reshape(-1).astype(np.uint32)
        position = np.arange(bits.size, dtype=np.uint32) * np.uint32(0x9E3779B1)
        position ^= position >> 15
        total = np.sum((bits ^ (bits >> 16)) * (2 * position + 1), dtype=np.uint32)
        lines.append(f"{path} {array.shape} {array.dtype.name} {total}")
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_the_hash_follows_its_definition():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(2, 8, 16)).astype(np.float32)
    b = rng.normal(size=(16,)).astype(ml_dtypes.bfloat16)
    q = rng.integers(-128, 128, (4, 8)).astype(np.int8)
    tree = {"llm": {"layers": {"w": w, "q": q}}, "vision": {"b": b, "s": np.float32(-0.0)}}
    expected = reference_hash(
        {"llm/layers/w": w, "llm/layers/q": q, "vision/b": b, "vision/s": np.float32([-0.0])[0]}
    )
    assert tree_hash(tree) == expected
    assert tree_hash(jax.tree.map(jnp.asarray, tree)) == expected


def test_the_hash_does_not_depend_on_the_sharding():
    params = {"w": jax.random.normal(jax.random.key(0), (8, 16)), "b": jnp.ones((16,))}
    expected = tree_hash(params)
    for sizes, spec in [((8, 1, 1), P("data")), ((1, 2, 4), P("fsdp", "tensor"))]:
        sharding = NamedSharding(make_mesh(*sizes), spec)
        whole = NamedSharding(make_mesh(*sizes), P())
        placed = jax.device_put(params, {"w": sharding, "b": whole})
        assert tree_hash(placed) == expected


def test_the_hash_detects_every_change():
    w = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    one_bit = w.copy()
    one_bit.view(np.uint32)[3, 5] ^= 1
    swapped = w.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    trees = [
        {"a": w},
        {"b": w},
        {"a": w.T},
        {"a": w.reshape(4, 16)},
        {"a": w.view(np.int32)},
        {"a": one_bit},
        {"a": swapped},
        {"a": w, "b": w},
    ]
    assert len({tree_hash(tree) for tree in trees}) == len(trees)


def test_the_hash_detects_exchanged_layers_of_16_bit_numbers():
    narrow = np.random.default_rng(0).normal(size=(2, 64, 256)).astype(ml_dtypes.bfloat16)
    for w in (narrow, narrow.astype(np.float32)):
        names = {tree_hash({"w": w})}
        for first, second in [(0, 1), (0, 16), (3, 35)]:
            rows = w.copy()
            rows[0, [first, second]] = rows[0, [second, first]]
            names.add(tree_hash({"w": rows}))
        assert len(names | {tree_hash({"w": w[::-1]})}) == 5


def test_the_hash_is_plain_text():
    text = tree_hash({"a": np.ones(3, np.float32)})
    assert json.loads(json.dumps(text)) == text
    assert len(text) == len("sha256:") + 64
