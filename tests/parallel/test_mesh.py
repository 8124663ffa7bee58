import os
import socket
import subprocess
import sys

import jax
import pytest
from jax.sharding import AxisType

from owl_jax.errors import UserError
from owl_jax.parallel.mesh import make_mesh


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1)),
        ({"data": 2, "fsdp": -1, "tensor": 2}, (2, 2, 2)),
        ({"data": 1, "fsdp": 1, "tensor": 8}, (1, 1, 8)),
    ],
)
def test_one_axis_takes_what_is_left(sizes, expected):
    mesh = make_mesh(**sizes)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert tuple(mesh.shape.values()) == expected


def test_axes_are_auto_so_that_logical_constraints_work():
    assert make_mesh().axis_types == (AxisType.Auto,) * 3


def test_a_part_of_the_devices():
    assert make_mesh(data=1, fsdp=2, devices=jax.devices()[:2]).size == 2


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3}, "takes 3 devices, but there are 8; set one axis to -1"),
        ({"data": 1}, "takes 1 devices, but there are 8"),
        ({"fsdp": 3}, "8 devices cannot be divided by 3"),
        ({"fsdp": -1}, "only one axis may be -1; set fsdp"),
        ({"fsdp": 0}, "fsdp=0.*positive"),
        ({"data": 8, "tensor": -2}, "tensor=-2.*positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(**sizes)


ALONE = """
import jax
from owl_jax.errors import UserError
from owl_jax.parallel.mesh import start_multihost
try:
    start_multihost()
except UserError as error:
    print(error)
start_multihost("localhost:{port}", num_processes=1, process_id=0)
print(jax.process_count())
"""

TWO = """
import sys
import jax, numpy as np
from owl_jax.errors import UserError
from owl_jax.parallel.mesh import make_mesh, start_multihost
from owl_jax.parallel.sharding import shard_batch
me = int(sys.argv[1])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
start_multihost("localhost:{port}", num_processes=2, process_id=me)
for sizes in ({{"data": 4, "fsdp": 2}}, {{"data": 1, "fsdp": 4, "tensor": 2}}):
    mesh = make_mesh(**sizes)
    axis = list(mesh.shape.values()).index(4)
    halves = np.split(mesh.devices, 2, axis)
    assert [len({{d.slice_index for d in half.flat}}) for half in halves] == [1, 1], mesh.devices
try:
    make_mesh(data=1, fsdp=1, tensor=8)
except UserError as error:
    assert "2 slices" in str(error)
rows = np.arange(16.0).reshape(8, 2)[4 * me : 4 * me + 4]
x = shard_batch({{"x": rows}}, make_mesh(fsdp=2))["x"]
total = float(jax.jit(lambda x: (x * x).sum())(x))
print("\\nresult", x.shape, total)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(script, *arguments, **variables):
    return subprocess.Popen(
        [sys.executable, "-c", script.format(port=variables.pop("port")), *arguments],
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_multihost_start_without_a_cluster_says_what_it_needs():
    out, err = start(ALONE, port=free_port()).communicate(timeout=60)
    assert out.splitlines()[0].startswith("cannot join the multi-host run: coordinator_address"), (
        err
    )
    assert out.splitlines()[1] == "1"


def test_two_hosts_in_two_slices_share_a_mesh_and_a_batch():
    port = free_port()
    hosts = [start(TWO, str(i), port=port, JAX_PARTITION_INDEX=str(i)) for i in range(2)]
    for host in hosts:
        out, err = host.communicate(timeout=60)
        assert f"\nresult (8, 2) {float(sum(i * i for i in range(16)))}\n" in out, err
