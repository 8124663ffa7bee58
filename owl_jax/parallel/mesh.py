"""The device mesh, and the start of multi-host runs.

One mesh for everything, with three axes:
  data    replicas of the weights; shards the batch (may span hosts and slices)
  fsdp    shards the weights, which are gathered for use, and the batch
  tensor  shards heads, MLP and vocabulary within each layer
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

    If there are several slices (TPU slices, or GPU hosts without a common NVLink), the data axis
    spans them, since it exchanges only gradients; if its size does not allow that, fsdp spans them.

    Args:
      data, fsdp, tensor: sizes of the axes; at most one may be -1, which takes the remainder.
      devices: by default all devices of all processes.

    Raises:
      UserError: the axes do not match the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    shown = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"mesh ({shown}): expected positive sizes, or -1 for the remainder")
    unknown = [axis for axis, size in sizes.items() if size == -1]
    if len(unknown) > 1:
        raise UserError(f"mesh ({shown}): only one axis may be -1; set {unknown[1]} to a number")

    count = len(devices)
    taken = math.prod(size for size in sizes.values() if size != -1)
    if unknown:
        if count % taken:
            raise UserError(
                f"mesh ({shown}): {count} devices cannot be divided by {taken}; choose sizes whose "
                f"product divides {count}"
            )
        sizes[unknown[0]] = count // taken
    elif taken != count:
        raise UserError(
            f"mesh ({shown}) takes {taken} devices, but there are {count}; set one axis to -1 for "
            "the remainder, or change the sizes"
        )
    # JAX's default, Explicit, turns Linen's logical constraints into assertions.
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=types, devices=devices)

    spanning = next((axis for axis in ("data", "fsdp") if sizes[axis] % slices == 0), None)
    if spanning is None:
        raise UserError(
            f"mesh ({shown}): the devices are in {slices} slices; make data (or else fsdp) a "
            f"multiple of {slices}"
        )
    inside = [size // slices if axis == spanning else size for axis, size in sizes.items()]
    between = [slices if axis == spanning else 1 for axis in AXES]
    grid = mesh_utils.create_hybrid_device_mesh(
        inside, between, devices, allow_split_physical_axes=True
    )
    return Mesh(grid, AXES, axis_types=types)


def start_multihost(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins this process to a multi-host run. Call it before anything uses a device.

    TPU pods, GKE, Slurm and MPI need no arguments, even with one host. Any other single host must
    not call this.

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
            f"multi-host start failed: {error} TPU pods, GKE, Slurm and MPI need no address;"
            " elsewhere give the coordinator's host:port, the number of processes and this one's"
            " index. A single host needs no multi-host start"
        ) from error
