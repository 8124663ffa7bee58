"""Sharding: maps the logical dimension names of the model to mesh axes.

Modules name the dimensions of their parameters and activations; `LogicalRules` maps the names to
axes of the mesh (owl_jax/parallel/mesh.py). No module names a mesh axis.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from owl_jax.errors import UserError

Axes = str | tuple[str, ...] | None

# Both axes shard the batch: under fsdp each device computes its own sequences.
BATCH_AXES = ("data", "fsdp")


@dataclass(frozen=True)
class LogicalRules:
    """The mesh axes of each logical name; None is replicated.

    Parameters are sharded over fsdp along their widest dimension, and over tensor along the
    dimension that stays local to a device until the output projection (Megatron, arXiv 1909.08053).
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
        """The PartitionSpec of an array with these logical dimension names.

        Raises:
          UserError: a name is unknown, or two names map to the same mesh axis.
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
                        f"{_shown(names)}: {owner[axis]!r} and {name!r} both map to the mesh axis "
                        f"{axis!r}; map one of them elsewhere in LogicalRules"
                    )
                owner[axis] = name
        return PartitionSpec(*axes)

    def flax_rules(self) -> tuple[tuple[str, Axes], ...]:
        """The table for `flax.linen.logical_axis_rules`."""
        return tuple((field.name, getattr(self, field.name)) for field in fields(self))


def param_shardings(params: Any, mesh: Mesh, rules: LogicalRules, names: Any = None) -> Any:
    """The sharding of each parameter.

    A dimension that its mesh axes do not divide is replicated, so tiny models run on any mesh.

    Args:
      params: a tree of arrays or ShapeDtypeStructs, plain or in flax.linen's Partitioned boxes as
        from `jax.eval_shape(module.init, ...)`.
      names: the same tree with a PartitionSpec of logical names at each leaf, as from
        `flax.linen.get_partition_spec`; by default taken from the boxes.

    Returns:
      The tree without boxes, with a NamedSharding at each leaf.

    Raises:
      UserError: a logical name is unknown, or two map to the same mesh axis; the message names the
        parameter.
    """
    names = nn.get_partition_spec(params) if names is None else names

    def leaf_sharding(path: tuple[Any, ...], leaf: Any, dimensions: PartitionSpec) -> NamedSharding:
        try:
            # A PartitionSpec may omit trailing dimensions without a name.
            spec = rules.spec((*dimensions, *[None] * (len(leaf.shape) - len(dimensions))))
        except UserError as error:
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(f"parameter {where} {error}") from error
        divided = [
            axes if size % _size(axes, mesh) == 0 else None
            for size, axes in zip(leaf.shape, spec, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*divided))

    return jax.tree_util.tree_map_with_path(leaf_sharding, nn.meta.unbox(params), names)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sequences over data and fsdp; other dimensions replicated."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


@contextmanager
def on_mesh(mesh: Mesh | None, batch_size: int) -> Iterator[None]:
    """Programs in this block are sharded by LogicalRules; None: they run on one device.

    A batch that its mesh axes do not divide is replicated.
    """
    if mesh is None:
        yield
        return
    rules = LogicalRules()
    if batch_size % num_batch_shards(mesh):
        rules = dataclasses.replace(rules, batch=None)
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules.flax_rules()):
        yield


def num_batch_shards(mesh: Mesh) -> int:
    """The number of shards of a batch."""
    return _size(BATCH_AXES, mesh)


def process_batch_shard(mesh: Mesh) -> tuple[int, int]:
    """(shard_index, num_shards): the shard of each batch that this process reads.

    Usually each process has its own shard; processes that differ only along the tensor axis share
    one.

    Raises:
      UserError: the sequences of two processes overlap only partly.
    """
    shape = (num_batch_shards(mesh),)
    table: Mapping[Any, Any] = batch_sharding(mesh).devices_indices_map(shape)
    by_process: dict[int, set[int]] = {}
    for device, (index,) in table.items():
        by_process.setdefault(device.process_index, set()).add(index.start or 0)
    shards = sorted({tuple(sorted(indices)) for indices in by_process.values()})
    if len(set().union(*shards)) < sum(map(len, shards)):
        raise UserError(
            f"mesh {dict(mesh.shape)}: the sequences of two hosts overlap in part; let the tensor "
            "axis divide the devices of a host, or be a multiple of them"
        )
    return shards.index(tuple(sorted(by_process[jax.process_index()]))), len(shards)


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Shards a batch over the mesh.

    Args:
      batch: arrays [sequences of this process, ...].

    Returns:
      Global arrays [sequences of all processes, ...].

    Raises:
      UserError: the devices of this process do not divide its sequences.
    """
    sharding = batch_sharding(mesh)
    shards = num_batch_shards(mesh.local_mesh)  # of this process
    for name, array in batch.items():
        if len(array) % shards:
            raise UserError(
                f"batch of {len(array)} sequences per process ({name}) cannot be divided among "
                f"{shards} devices (mesh axes {' and '.join(BATCH_AXES)}); make it a multiple of "
                f"{shards}"
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
