"""A model loaded and saved by two real processes: each reads what its devices hold, and nothing
else; one writes what both agree on. All tests ask one pair of them."""

import json
import socket

import directories
import forked
import golden
import pytest
from directories import LLAMA
from read_whole import load_model

from owl_jax.checkpoint.checksums import verify

pytestmark = pytest.mark.processes

CASES = (golden.LLAMA, golden.VIDEO)
SCRIPT = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import numpy as np
import owl_jax
from pathlib import Path
from owl_jax.checkpoint.atomic_directory import whole_directory
from owl_jax.checkpoint.lazy_arrays import read as read_array
from owl_jax.checkpoint.model_directory import open_model
from owl_jax.checkpoint.tensors import TensorFiles
from owl_jax.errors import UserError
from owl_jax.parallel.mesh import make_mesh

count, read = 0, TensorFiles.read
def counting(self, name, part=None):
    global count
    value = read(self, name, part)
    count += value.nbytes
    return value
TensorFiles.read = counting

def halves(directory):
    global count
    opened = open_model(Path(directory)).params
    expected = jax.tree.map(lambda leaf: read_array(leaf, np.dtype("float32")), opened)
    count = 0
    owl = owl_jax.load(directory, "float32", mesh=make_mesh(data=1, fsdp=-1))
    held = whole = 0
    for array, leaf in zip(jax.tree.leaves(owl.params), jax.tree.leaves(expected), strict=True):
        parts = {str(shard.index): shard for shard in array.addressable_shards}
        for shard in parts.values():
            np.testing.assert_array_equal(np.asarray(shard.data), leaf[shard.index])
            held += shard.data.nbytes
        whole += leaf.nbytes
    return {"read": count, "held": held, "whole": whole}

found = {directory: halves(directory) for directory in sys.argv[5:]}
place = Path(sys.argv[4])
owl = owl_jax.load(sys.argv[3], "float32", mesh=make_mesh(data=1, fsdp=-1))
owl.save(place / "model", "orbax")
partials, told = [], []
for target, begun in (("other", False), ("file/x", False), ("free", True)):
    try:
        with whole_directory(place / target) as partial:
            partials.append(partial.name)
            if jax.process_index() == 0 and begun:
                (place / target).mkdir()
                (place / target / "mine").touch()
    except UserError as error:
        told.append(str(error))
print(json.dumps([partials, told, found]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the processes write."""
    place = tmp_path_factory.mktemp("place")
    (place / "file").touch()
    return place


@pytest.fixture(scope="module")
def answers(place):
    cases = [golden.GOLDENS / case for case in CASES]
    return [json.loads(out.splitlines()[-1]) for out in _run(SCRIPT, LLAMA, place, *cases)]


def test_all_processes_agree_on_where_they_write_and_what_went_wrong(answers, place):
    assert answers[0][:2] == answers[1][:2]
    partials, told, _ = answers[0]
    assert len(set(partials)) == 2
    assert "Not a directory" in told[0]
    assert "another run has created" in told[1]
    assert len(told) == 2
    assert {path.name for path in place.iterdir()} == {"file", "free", "model", "other"}
    assert verify(place / "model").files > 3
    directories.assert_same_tree(
        load_model(place / "model", "float32")[1], golden.model(golden.LLAMA)[1]
    )


@pytest.mark.parametrize("case", CASES)
def test_each_process_reads_its_half(answers, case):
    for _, _, halves in answers:
        found = halves[str(golden.GOLDENS / case)]
        assert found["read"] == found["held"]
        assert 0.5 <= found["read"] / found["whole"] < 0.6, found


def _run(script, *arguments):
    """What two processes print."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        forked.Forked(["-c", script, address, str(number), *map(str, arguments)])
        for number in range(2)
    ]
    try:
        results = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, results, strict=True):
        assert process.returncode == 0, err
    return [out for out, _ in results]
