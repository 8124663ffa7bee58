"""The devices of slices as the TPU's compiler describes them."""

import pytest

from owl_jax.errors import UserError
from owl_jax.parallel.mesh import make_mesh


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("v5e:1x1", "TPU v5 lite", 1),
        ("v5e:2x4", "TPU v5 lite", 8),
        ("v5e:16x16", "TPU v5 lite", 256),
        ("v6e:2x2", "TPU v6 lite", 4),
        ("v5p:4x4x4", "TPU v5", 64),
        ("v5p:16x16x24", "TPU v5", 6144),
        ("v4:2x2x1", "TPU v4", 4),
        ("v4:2x2x4", "TPU v4", 16),
        ("v4:16x16x16", "TPU v4", 4096),
    ],
)
def test_a_device_for_each_chip(open_topology, name, kind, count):
    topology = open_topology(name)
    assert len(topology.devices) == count
    assert {device.device_kind for device in topology.devices} == {kind}
    assert kind in topology.chip.kinds


def test_slices_are_joined_by_the_data_axis(open_topology):
    topology = open_topology("v5e:2x2", slices=2)
    assert [device.slice_index for device in topology.devices] == [0] * 4 + [1] * 4
    mesh = make_mesh(data=2, fsdp=-1, devices=topology.devices)
    assert {device.slice_index for device in mesh.devices[0].flat} == {0}


def test_slices_that_the_data_axis_cannot_join(open_topology):
    devices = open_topology("v5e:2x2", slices=3).devices
    mesh = make_mesh(data=4, fsdp=3, devices=devices)
    assert {device.slice_index for device in mesh.devices[:, 0].flat} == {0}
    with pytest.raises(UserError, match=r"in 3 slices; make data \(or else fsdp\) a multiple of 3"):
        make_mesh(data=4, tensor=3, devices=devices)
