"""A model loaded by two real processes: each reads what its devices hold, and nothing else."""

import json
import socket
import subprocess
import sys

import golden
import pytest

SCRIPT = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import numpy as np
import owl_jax
from pathlib import Path
from owl_jax.checkpoint.model_directory import load_model
from owl_jax.checkpoint.tensors import TensorFiles
from owl_jax.parallel.mesh import make_mesh

_, expected = load_model(Path(sys.argv[3]), "float32")
count, read = 0, TensorFiles.read
def counting(self, name, part=None):
    global count
    value = read(self, name, part)
    count += value.nbytes
    return value
TensorFiles.read = counting
owl = owl_jax.load(sys.argv[3], "float32", mesh=make_mesh(data=1, fsdp=-1))
held = whole = 0
for array, leaf in zip(jax.tree.leaves(owl.params), jax.tree.leaves(expected), strict=True):
    parts = {str(shard.index): shard for shard in array.addressable_shards}
    for shard in parts.values():
        np.testing.assert_array_equal(np.asarray(shard.data), leaf[shard.index])
        held += shard.data.nbytes
    whole += leaf.nbytes
print(json.dumps({"read": count, "held": held, "whole": whole}))
"""


@pytest.mark.parametrize("case", [golden.LLAMA, golden.VIDEO])
def test_each_process_reads_its_half(case):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, address, str(number), str(golden.GOLDENS / case)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        results = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, results, strict=True):
        assert process.returncode == 0, err
        found = json.loads(out.splitlines()[-1])
        assert found["read"] == found["held"]
        assert 0.5 <= found["read"] / found["whole"] < 0.6, found
