"""The parameters of our own model directories: an Orbax tree, written and read piece by piece.

Orbax itself writes arrays on devices, all at once. `LazyArray`s go through Orbax too, but one layer
at a time; the result is an ordinary Orbax checkpoint. Reading uses TensorStore, the library below
Orbax, which opens each parameter separately.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from absl.logging import get_absl_logger
from flax.traverse_util import unflatten_dict

from owl_jax.checkpoint import schema
from owl_jax.checkpoint.event_loop import patient_event_loops
from owl_jax.checkpoint.lazy_arrays import LazyArray, ahead, nans, pieces
from owl_jax.checkpoint.manager import QuietOrbax
from owl_jax.checkpoint.tensors import EXPECTED_DTYPES
from owl_jax.errors import UserError
from owl_jax.files import GitPointer, check_regular
from owl_jax.models.transforms import Shape, Slices

_DTYPES = tuple(map(jnp.dtype, ("bfloat16", "float16", "float32", "float64")))

# Largest TensorStore chunk. It is small, so a process that needs one shard of an array reads little
# beyond it.
_CHUNK_BYTES = 16 * 2**20

# Replicas share the writing of an array if each writes at least this much: each slice is a program
# to compile.
_SHARED_BYTES = 2**20

# Orbax merges all subdirectories ocdbt.process_*, one for each writer. The suffix is ours, since
# Orbax writes arrays on devices to its own at the same time.
_WRITTEN = "ocdbt.process_stored"


def write_params(
    path: Path, params: Mapping[str, Any], progress: Callable[[int], None] = lambda nbytes: None
) -> None:
    """Writes a tree of arrays, on devices or lazy. All processes of a multi-host run call it.

    progress: called with the bytes of each piece of a lazy array after it is written.
    """
    streaming = _StreamingHandler(progress)
    wrapped = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else _Streamed(x), params)
    registry = ocp.type_handlers.create_type_handler_registry(
        (
            jax.Array,
            ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_SHARED_BYTES),
        ),
        (_Streamed, streaming),
    )
    # No chunk spans two layers, so writing a piece never has to read a chunk first.
    arguments = jax.tree.map(
        lambda x: ocp.SaveArgs(
            chunk_byte_size=_CHUNK_BYTES, shard_axes=(0,) if len(x.shape) > 2 else ()
        ),
        wrapped,
    )
    with _quiet_orbax(), patient_event_loops():
        handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)
        with ocp.Checkpointer(handler) as checkpointer:
            try:
                checkpointer.save(path, args=ocp.args.PyTreeSave(wrapped, save_args=arguments))
            finally:
                if streaming.error is not None:
                    raise streaming.error


def open_params(path: Path, found: dict[str, int] | None = None) -> dict[str, Any]:
    """Opens the tree in `path`; each leaf is a `LazyArray`.

    found: receives {parameter: count of NaNs} as arrays are read.

    Raises UserError if the tree is damaged or has an array that is not of floats.
    """
    # Orbax would read all arrays, each of them whole.
    try:
        for file in path.rglob("*"):  # TensorStore would wait for a FIFO's writer
            if not file.is_dir():
                check_regular(file)
        tree = _metadata(path)
        opened = {}
        found = {} if found is None else found
        for leaf in tree.tree_metadata.values():
            keys = tuple(key.key for key in leaf.key_metadata)
            store = _open(path, ".".join(keys))
            dtype = store.dtype.numpy_dtype
            if dtype not in _DTYPES:
                raise UserError(f"{path}: {'/'.join(keys)} is {dtype}; {EXPECTED_DTYPES}")
            shape = tuple(store.shape)
            opened[keys] = _OwnArray(path, "/".join(keys), store, shape, dtype, found)
        return unflatten_dict(opened)
    except GitPointer as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    # TypeError, AttributeError: one name is a leaf and a subtree.
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _metadata(path: Path) -> schema.OrbaxTree:
    try:
        return schema.read_as(path / "_METADATA", schema.OrbaxTree)
    except UserError as error:
        raise _damaged(path, error) from None


def _open(path: Path, name: str) -> ts.TensorStore:
    return ts.open(_spec(f"{path}/", name), open=True).result()


def _spec(directory: str, name: str) -> dict[str, Any]:
    base = {"driver": "ocdbt", "base": f"file://{directory}", "path": f"{name}/"}
    return {"driver": "zarr", "kvstore": base}


def _damaged(path: Path, error: Exception) -> UserError:
    first = str(error).splitlines()[:1]
    return UserError(f"{path}: damaged, copy the directory again ({' '.join(first)})")


@dataclass(frozen=True)
class _OwnArray:
    path: Path
    name: str
    store: Any
    shape: Shape
    dtype: np.dtype
    nans: dict[str, int]

    def __getitem__(self, part: Slices) -> np.ndarray:
        try:
            value: np.ndarray = self.store[part].read().result()
        except (OSError, ValueError) as error:
            raise _damaged(self.path, error) from error
        if count := nans(value):
            self.nans[self.name] = max(self.nans.get(self.name, 0), count)
        return value


@dataclass(frozen=True)
class _Streamed:
    """Wraps a lazy array in a type for which Orbax calls `_StreamingHandler`."""

    array: LazyArray

    @property
    def shape(self) -> Shape:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.array.dtype)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


def _read(array: LazyArray, part: Slices) -> np.ndarray:
    return np.asarray(array[part])


class _StreamingHandler(ocp.type_handlers.NumpyHandler):
    """Writes one array after another, each piece by piece."""

    def __init__(self, progress: Callable[[int], None]):
        super().__init__()
        self._progress = progress
        self.error: Exception | None = None

    async def serialize(
        self,
        values: Sequence[_Streamed],
        infos: Sequence[Any],
        args: Sequence[ocp.SaveArgs] | None = None,
    ) -> Sequence[Any]:
        """Writes the values to a subdirectory that Orbax merges.

        Keeps an error in `self.error` until Orbax is done with all arrays; raised here, it would
        leave the others half-written.
        """
        del args
        if jax.process_index() == 0:
            try:
                for value, info in zip(values, infos, strict=True):
                    await info.await_path_creation()
                    await self._write(value, f"{info.parent_dir}/{_WRITTEN}/", info.name)
            except Exception as error:
                self.error = error
        return []

    async def _write(self, value: _Streamed, directory: str, name: str) -> None:
        # Chunks of zeros are stored too, so that a missing chunk cannot pass for one.
        spec = _spec(directory, name) | {
            "metadata": {"chunks": _chunk(value), "compressor": None},
            "store_data_equal_to_fill_value": True,
        }
        store = await ts.open(spec, create=True, dtype=value.dtype, shape=value.shape)
        parts = list(pieces(value.shape))
        reads = [partial(_read, value.array, part) for part in parts]
        for part, found in zip(parts, ahead(reads), strict=True):
            await store[part].write(found, can_reference_source_data_indefinitely=True)
            self._progress(found.nbytes)


def _chunk(value: _Streamed) -> list[int]:
    """The shape of a chunk: one piece or, if that is too large, one of its equal parts."""
    shape = [max(axis.stop - axis.start, 1) for axis in next(pieces(value.shape))]
    for axis, size in enumerate(shape):
        least = math.ceil(math.prod(shape) * value.dtype.itemsize / _CHUNK_BYTES)
        shape[axis] = math.ceil(size / least)
    return shape


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    logger, silence = get_absl_logger(), QuietOrbax()
    logger.addFilter(silence)
    try:
        yield
    finally:
        logger.removeFilter(silence)
