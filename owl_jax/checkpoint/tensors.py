"""Reads and writes tensor files by a table of names and transforms (models/weight_names.py).

No parameter stays randomly initialised: one error lists all missing, unexpected, duplicate and
mis-shaped tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from owl_jax.checkpoint.lazy_arrays import LazyArray, infinities, nans
from owl_jax.errors import UserError, listed, one_line
from owl_jax.files import NotAFile, check_regular
from owl_jax.models.transforms import Shape, Slices, read_part, size_of, whole
from owl_jax.models.weight_names import BUFFERS, Row

# Integers are not weights, and narrower floats need a scale.
_DTYPES: Mapping[str, Any] = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}
EXPECTED_DTYPES = "expected floats: bfloat16, float16, float32 or float64"

# Stands for a buffer's dtype; buffers are never read, so any dtype is accepted.
UNREAD = np.dtype(np.void)


@dataclass(frozen=True)
class TensorInfo:
    """The file, shape and dtype of a tensor."""

    file: Path
    shape: Shape
    dtype: np.dtype


class TensorFiles:
    """The tensors of several safetensors files, read in slices; none stays in memory.

    bytes_read: the bytes that `read` has read.
    infinite: {tensor: count of elements that are not finite}, of float16 tensors that were read.
    nans: {tensor: count of NaNs}, of other tensors that were read.

    Raises UserError if a file is damaged or not regular, if two files have the same tensor, or if
    a tensor, except a buffer (weight_names.BUFFERS), is not of floats.
    """

    def __init__(self, paths: Sequence[Path]):
        self.bytes_read = 0
        self.infinite: dict[str, int] = {}
        self.nans: dict[str, int] = {}
        self._infos: dict[str, TensorInfo] = {}
        duplicates = []
        for path in paths:
            for name, info in self._contents(path):
                if name in self._infos:
                    duplicates.append(name)
                self._infos[name] = info
        if duplicates:
            raise UserError(
                f"{paths[0].parent}: in more than one file: {listed(sorted(duplicates))}"
            )

    def names(self) -> set[str]:
        return set(self._infos)

    def shape(self, name: str) -> Shape:
        return self._infos[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self._infos[name].dtype

    def read(self, name: str, part: Slices | None = None) -> np.ndarray:
        """Copies a slice of a tensor (by default all of it) into memory."""
        info = self._infos[name]
        value = self._read(info.file, name, whole(info.shape) if part is None else part)
        self.bytes_read += value.nbytes
        # max: a tensor that is read twice, as for a hash, counts once.
        if value.dtype == np.float16:
            if count := infinities(value):
                self.infinite[name] = max(self.infinite.get(name, 0), count)
        elif count := nans(value):
            self.nans[name] = max(self.nans.get(name, 0), count)
        return value

    def _contents(self, path: Path) -> Iterator[tuple[str, TensorInfo]]:
        try:
            check_regular(path)
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                    view = file.get_slice(name)
                    kind = view.get_dtype()
                    if kind not in _DTYPES and not BUFFERS.fullmatch(name):
                        raise UserError(f"{path}: {name} is {kind}; {EXPECTED_DTYPES}")
                    dtype = np.dtype(_DTYPES.get(kind, UNREAD))
                    yield name, TensorInfo(path, tuple(view.get_shape()), dtype)
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error

    def _read(self, path: Path, name: str, part: Slices) -> np.ndarray:
        # Opened for each tensor: mapped pages of an open file count as this process's memory.
        try:
            with safe_open(path, framework="numpy") as file:
                value: np.ndarray = file.get_slice(name)[part] if part else file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error
        return value


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, NotAFile) else one_line(error)
    return UserError(f"{path}: not a readable safetensors file ({reason})")


@dataclass(frozen=True)
class FromSource:
    """A parameter as a `LazyArray` (checkpoint/lazy_arrays.py) over the source's tensors.

    rows: one row, or one for each index of the second-to-last axis if the source stores each index
      as a tensor of its own.
    """

    files: TensorFiles
    rows: tuple[Row, ...]
    shape: Shape
    dtype: np.dtype

    def __getitem__(self, part: Slices) -> np.ndarray:
        if not self.rows[0].per_layer:
            return self._layer(None, self.shape, part)
        layers = range(part[0].start, part[0].stop)
        if len(layers) == 1:
            return self._layer(layers[0], self.shape[1:], part[1:])[None]
        result = np.empty(size_of(part), self.dtype)
        for i, layer in enumerate(layers):
            result[i] = self._layer(layer, self.shape[1:], part[1:])
        return result

    def _layer(self, layer: int | None, shape: Shape, part: Slices) -> np.ndarray:
        if len(self.rows) == 1:
            return self._row(self.rows[0], layer, shape, part)
        shape, chosen, part = shape[:-2] + shape[-1:], part[-2], part[:-2] + part[-1:]
        return np.stack([self._row(row, layer, shape, part) for row in self.rows[chosen]], axis=-2)

    def _row(self, row: Row, layer: int | None, shape: Shape, part: Slices) -> np.ndarray:
        name = row.source if layer is None else row.source.format(i=layer)
        value = read_part(row.transform, lambda where: self.files.read(name, where), shape, part)
        return value.astype(self.dtype, copy=False)


def from_source(
    rows: Sequence[Row],
    files: TensorFiles,
    abstract: Mapping[str, Any],
    where: Path,
    tied: Mapping[str, str] | None = None,
    ignored: Callable[[str], bool] = lambda name: False,
) -> dict[str, Any]:
    """The parameters that the rows name, as a tree of `LazyArray`s; reads shapes only.

    Args:
      abstract: a tree with a shape for every target of the rows.
      where: the source, for errors.
      tied: {name: the tensor that it may copy} (families/family.py).
      ignored: tensors of the source to ignore, besides buffers.

    Raises UserError that lists missing, unexpected and mis-shaped tensors, and tied tensors that
    differ from their originals; and for rows that are not those of the model's parameters.
    """
    shapes = {path: leaf.shape for path, leaf in flatten_dict(dict(abstract), sep="/").items()}
    targets: dict[str, list[Row]] = {}
    for row in rows:
        targets.setdefault(row.target, []).append(row)
    subtrees = {target.partition("/")[0] for target in targets}
    unknown = sorted(targets.keys() - shapes.keys())
    forgotten = [
        path for path in shapes if path.partition("/")[0] in subtrees and path not in targets
    ]
    if unknown or forgotten:
        raise UserError(
            f"{where}: the table of weights (weight_rows) does not fit the model's parameters: "
            f"rows without a parameter: {listed(unknown) or 'none'}; parameters without a row: "
            f"{listed(forgotten) or 'none'}"
        )
    tied = tied or {}
    wanted = {
        source: row.transform.source_shape(_row_shape(row, shapes[target], len(group)))
        for target, group in targets.items()
        for row in group
        for source in _sources(row, shapes[target])
    }
    names = {name for name in files.names() if not BUFFERS.fullmatch(name) and not ignored(name)}
    problems = {
        "missing": sorted(wanted.keys() - names),
        "unexpected": sorted(names - wanted.keys() - tied.keys()),
        "of another shape": [
            f"{name} (found {files.shape(name)}, expected {wanted[name]})"
            for name in sorted(wanted.keys() & names)
            if files.shape(name) != wanted[name]
        ],
        "tied, but different": [
            f"{copy} (from {original})"
            for copy, original in tied.items()
            if {copy, original} <= names
            and not np.array_equal(files.read(copy), files.read(original))
        ],
    }
    if count := sum(map(len, problems.values())):
        kinds = (f"{kind}: {listed(found)}" for kind, found in problems.items() if found)
        raise UserError(f"{where}: tensors that do not fit the model ({count}): {'; '.join(kinds)}")
    tree = {}
    for target, group in targets.items():
        dtypes = [files.dtype(name) for row in group for name in _sources(row, shapes[target])]
        # Stacked layers share one dtype, the widest.
        tree[target] = FromSource(files, tuple(group), shapes[target], _widest(dtypes))
    return unflatten_dict(tree, sep="/")


@dataclass(frozen=True)
class Outgoing:
    """A tensor to be written; `read` produces it."""

    name: str
    shape: Shape
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def to_source(rows: Sequence[Row], tree: Mapping[str, Any]) -> list[Outgoing]:
    """The tree's arrays under the source's names, transformed back; inverse of `from_source`."""
    flat = flatten_dict(dict(tree), sep="/")
    targets: dict[str, list[Row]] = {}
    for row in rows:
        targets.setdefault(row.target, []).append(row)
    tensors = []
    for row in rows:
        array, group = flat[row.target], targets[row.target]
        shape = _row_shape(row, array.shape, len(group))
        for layer, name in enumerate(_sources(row, array.shape)):
            part = whole(array.shape)
            if row.per_layer:
                part = (slice(layer, layer + 1), *part[1:])
            if len(group) > 1:
                chosen = group.index(row)
                part = (*part[:-2], slice(chosen, chosen + 1), part[-1])

            def read(
                row: Row = row,
                array: LazyArray = array,
                part: Slices = part,
                shape: Shape = shape,
            ) -> np.ndarray:
                value = np.asarray(array[part]).reshape(shape)
                return np.ascontiguousarray(row.transform.write(value))

            source_shape = row.transform.source_shape(shape)
            tensors.append(Outgoing(name, source_shape, np.dtype(array.dtype), read))
    return tensors


def _sources(row: Row, shape: Shape) -> list[str]:
    if not row.per_layer:
        return [row.source]
    return [row.source.format(i=layer) for layer in range(shape[0])]


def _row_shape(row: Row, shape: Shape, of_rows: int = 1) -> Shape:
    """The shape of one tensor of the row."""
    shape = shape[1:] if row.per_layer else shape
    return shape if of_rows == 1 else shape[:-2] + shape[-1:]


def _widest(dtypes: Sequence[np.dtype]) -> np.dtype:
    found = set(dtypes)
    return found.pop() if len(found) == 1 else np.dtype(np.float32)
