"""Where each dimension of each array lies: logical names in the model, one table to mesh axes here.

Modules name the dimensions of their parameters and activations; `LogicalRules` maps the names to
axes of the mesh (owl_jax/parallel/mesh.py). No module names a mesh axis.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from owl_jax.errors import UserError

Axes = str | tuple[str, ...] | None

# Both axes split the batch: under fsdp each device computes its own rows and shares weights only.
BATCH_AXES = ("data", "fsdp")


@dataclass(frozen=True)
class LogicalRules:
    """The mesh axes of each logical name; None is replicated.

    Parameters are split over fsdp along their widest dimension, and over tensor along the dimension
    that a layer can keep to itself until its output projection (Megatron, arXiv 1909.08053).
    """

    layers: Axes = None
    embed: Axes = "fsdp"
    vision_embed: Axes = "fsdp"
    heads: Axes = "tensor"
    kv: Axes = None
    mlp: Axes = "tensor"
    vocab: Axes = "tensor"
    rank: Axes = None
    patch: Axes = None
    query: Axes = None

    batch: Axes = BATCH_AXES
    length: Axes = None
    slots: Axes = None
    act_embed: Axes = None
    act_heads: Axes = "tensor"
    act_kv: Axes = None
    act_mlp: Axes = "tensor"
    act_vocab: Axes = "tensor"

    def spec(self, names: tuple[str | None, ...]) -> PartitionSpec:
        """The mesh axes of an array whose dimensions have these logical names.

        Raises:
          UserError: a name is unknown, or two names of the array land on the same mesh axis.
        """
        table = dict(self.flax_rules())
        unknown = [name for name in names if name is not None and name not in table]
        if unknown:
            raise UserError(f"{_shown(names)}: unknown logical name {unknown[0]!r}")
        axes = [None if name is None else table[name] for name in names]
        owner: dict[str, str | None] = {}
        for name, taken in zip(names, axes, strict=True):
            for axis in _each(taken):
                if axis in owner:
                    raise UserError(
                        f"{_shown(names)}: {owner[axis]!r} and {name!r} both land on the mesh axis "
                        f"{axis!r}; map one of them elsewhere in LogicalRules"
                    )
                owner[axis] = name
        return PartitionSpec(*axes)

    def flax_rules(self) -> tuple[tuple[str, Axes], ...]:
        """The table in the form that `flax.linen.logical_axis_rules` takes."""
        return tuple((field.name, getattr(self, field.name)) for field in fields(self))


def param_shardings(params: Any, mesh: Mesh, rules: LogicalRules, names: Any = None) -> Any:
    """The sharding of each parameter.

    A dimension that its mesh axes do not divide stays replicated, so that tiny models run on any
    mesh.

    Args:
      params: a tree of arrays or ShapeDtypeStructs, or the same in flax.linen's Partitioned boxes
        as `jax.eval_shape(module.init, ...)` gives them.
      names: for a tree without boxes: the same tree with a PartitionSpec of logical names at each
        leaf (what `flax.linen.get_partition_spec` makes). By default read from the boxes.

    Returns:
      The tree without boxes, with a NamedSharding at each leaf.

    Raises:
      UserError: a name is unknown, or two names of a parameter land on the same mesh axis; the
        parameter's path is named.
    """
    names = nn.get_partition_spec(params) if names is None else names

    def of_leaf(path: tuple[Any, ...], leaf: Any, dimensions: PartitionSpec) -> NamedSharding:
        try:
            # Trailing dimensions without a name may be left out of a PartitionSpec.
            spec = rules.spec((*dimensions, *[None] * (len(leaf.shape) - len(dimensions))))
        except UserError as error:
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(f"parameter {where} {error}") from error
        divided = [
            axes if size % _size(axes, mesh) == 0 else None
            for size, axes in zip(leaf.shape, spec, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*divided))

    return jax.tree_util.tree_map_with_path(of_leaf, nn.meta.unbox(params), names)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over data and fsdp; every other dimension whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def num_batch_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are divided."""
    return _size(BATCH_AXES, mesh)


def process_batch_shard(mesh: Mesh) -> tuple[int, int]:
    """(part, parts): which part of a batch's rows this process has to read.

    Mostly each process has a part of its own; processes that only tensor axes tell apart share one.

    Raises:
      UserError: the rows of two processes are the same in part, so that neither could read its own.
    """
    rows = num_batch_shards(mesh)
    table: Mapping[Any, Any] = batch_sharding(mesh).devices_indices_map((rows,))
    by_process: dict[int, set[int]] = {}
    for device, (index,) in table.items():
        by_process.setdefault(device.process_index, set()).add(index.start or 0)
    parts = sorted({tuple(sorted(held)) for held in by_process.values()})
    if len(set().union(*parts)) < sum(map(len, parts)):
        raise UserError(
            f"mesh {dict(mesh.shape)}: hosts hold the same rows of a batch in part; let the tensor "
            "axis divide the devices of a host, or be a multiple of them"
        )
    return parts.index(tuple(sorted(by_process[jax.process_index()]))), len(parts)


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch onto its devices.

    Args:
      batch: arrays [rows of this process, ...]; the global array has the rows of all processes.

    Raises:
      UserError: the rows cannot be divided among the devices of this process.
    """
    sharding = batch_sharding(mesh)
    # Local mesh: the part of the mesh that this process's devices make up.
    parts = num_batch_shards(mesh.local_mesh)
    for name, array in batch.items():
        if len(array) % parts:
            raise UserError(
                f"batch of {len(array)} rows per process ({name}) cannot be divided among {parts} "
                f"devices (mesh axes {' and '.join(BATCH_AXES)}); make it a multiple of {parts}"
            )
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def _each(axes: Axes) -> tuple[str, ...]:
    if axes is None:
        return ()
    return (axes,) if isinstance(axes, str) else axes


def _size(axes: Axes, mesh: Mesh) -> int:
    size = 1
    for axis in _each(axes):
        size *= mesh.shape[axis]
    return size


def _shown(names: tuple[str | None, ...]) -> str:
    return f"[{', '.join(name or '-' for name in names)}]"
