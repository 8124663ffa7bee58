"""The device mesh, and the start of multi-host runs.

One mesh for everything, with three axes:
  data    replicas of the weights; shards the batch (may span hosts and slices)
  fsdp    shards the batch, and the weights, which are gathered before they are used
  tensor  shards the heads and the MLP of each layer, and the vocabulary
owl_jax/parallel/sharding.py maps dimensions to these axes.
"""

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from owl_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Makes the mesh (data, fsdp, tensor).

    If there are several slices (TPU slices, or GPU hosts that NVLink does not connect), the data
    axis spans them, since it exchanges only gradients. If its size is not a multiple of the number
    of slices, the fsdp axis spans them instead.

    Args:
      data, fsdp, tensor: sizes of the axes; at most one may be -1, which takes the remainder.
      devices: by default all devices of all processes.

    Raises:
      UserError: the axes do not match the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    sizes_text = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"mesh ({sizes_text}): expected positive sizes, or -1 for the remainder")
    inferred = [axis for axis, size in sizes.items() if size == -1]
    if len(inferred) > 1:
        raise UserError(
            f"mesh ({sizes_text}): only one axis may be -1; set {inferred[1]} to a number"
        )

    count = len(devices)
    given = math.prod(size for size in sizes.values() if size != -1)
    if inferred:
        if count % given:
            raise UserError(
                f"mesh ({sizes_text}): {count} devices cannot be divided by {given}; choose "
                f"sizes whose product divides {count}"
            )
        sizes[inferred[0]] = count // given
    elif given != count:
        raise UserError(
            f"mesh ({sizes_text}) takes {given} devices, but there are {count}; set one axis to -1 "
            "for the remainder, or change the sizes"
        )
    # JAX's default, Explicit, turns Linen's logical constraints into assertions.
    types = (AxisType.Auto,) * len(AXES)
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    if num_slices == 1:
        return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=types, devices=devices)

    spanning = next((axis for axis in ("data", "fsdp") if sizes[axis] % num_slices == 0), None)
    if spanning is None:
        raise UserError(
            f"mesh ({sizes_text}): the devices are in {num_slices} slices; make data (or else "
            f"fsdp) a multiple of {num_slices}"
        )
    sizes_in_slice = [
        size // num_slices if axis == spanning else size for axis, size in sizes.items()
    ]
    sizes_across_slices = [num_slices if axis == spanning else 1 for axis in AXES]
    grid = mesh_utils.create_hybrid_device_mesh(
        sizes_in_slice, sizes_across_slices, devices, allow_split_physical_axes=True
    )
    return Mesh(grid, AXES, axis_types=types)


def start_multihost(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins this process to a multi-host run. Call it before anything uses a device.

    On TPU pods, GKE, Slurm and MPI, call it without arguments, even for a single host. Do not call
    it on a single host anywhere else.

    Args:
      coordinator_address: "host:port" of process 0.
      num_processes: number of processes.
      process_id: index of this process.

    Raises:
      UserError: no cluster is found, or it cannot be joined.
    """
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot join the multi-host run: {str(error).rstrip('. ')}. TPU pods, GKE, Slurm and "
            "MPI need no address; elsewhere give the coordinator's host:port, the number of "
            "processes and the index of this process. To train on a single host, drop --multihost"
        ) from error
