"""The mesh: which device holds which part of the batch and of the weights.

One mesh for everything, with three axes:
  data    copies of the weights; each takes its part of the batch (may span hosts and slices)
  fsdp    shards of the weights, gathered when they are used; the batch is split here too
  tensor  the width of heads, MLP and vocabulary split inside each layer
What lies on which axis is written down in owl_jax/parallel/sharding.py.
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

    Over several slices (TPU slices, or GPU hosts without a common NVLink) the data axis spans them,
    which exchanges gradients only; if it cannot, fsdp does.

    Args:
      data, fsdp, tensor: the sizes of the axes; at most one may be -1 and takes what is left.
      devices: all devices of all processes by default.

    Raises:
      UserError: the axes do not take exactly the devices that are there.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    shown = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"mesh ({shown}): a size is a positive number, or -1 for what is left")
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
            f"mesh ({shown}) takes {taken} devices, but there are {count}; set one axis to -1 to "
            "fill what is left, or change the sizes"
        )
    # JAX makes Explicit axes by default; under those, Linen's logical constraints are assertions
    # instead of constraints.
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=types, devices=devices)

    spanning = next((axis for axis in ("data", "fsdp") if sizes[axis] % slices == 0), None)
    if spanning is None:
        raise UserError(
            f"mesh ({shown}): the devices are in {slices} slices joined by the slower network; "
            f"make data (or else fsdp) a multiple of {slices}"
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
    """Joins this process to the others of a multi-host run, before any device is touched.

    TPU pods, GKE, Slurm and MPI need no arguments, and may be of one host. A machine that is none
    of these and has no others does not call this.

    Args:
      coordinator_address: "host:port" of process 0.
      num_processes: how many processes take part.
      process_id: the number of this one.

    Raises:
      UserError: no cluster is found and the arguments do not describe one, or it cannot be joined.
    """
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"multi-host start failed: {error} TPU pods, GKE, Slurm and MPI need no address;"
            " elsewhere give the coordinator's host:port, the number of processes and this one's"
            " number. A single host starts without multi-host"
        ) from error
