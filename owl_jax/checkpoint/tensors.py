"""Tensors in safetensors files, read and written by the rows of a table (checkpoint/table.py).

Nothing is ever left at random values: a missing, unexpected, duplicate or mis-shaped tensor is an
error that lists them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from owl_jax.checkpoint.table import BUFFERS, Row
from owl_jax.errors import UserError


class TensorFiles:
    """The tensors of some safetensors files, read one at a time.

    Raises UserError if a file is damaged or a tensor is in two of them.
    """

    def __init__(self, paths: Sequence[Path]):
        self._files: dict[str, Any] = {}
        duplicates = []
        for path in paths:
            try:
                handle = safe_open(path, framework="numpy")
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: not a readable safetensors file ({error})") from error
            for name in handle.keys():  # noqa: SIM118 - safe_open is no mapping
                if name in self._files:
                    duplicates.append(name)
                self._files[name] = handle
        if duplicates:
            names = ", ".join(sorted(duplicates))
            raise UserError(f"{paths[0].parent}: in more than one file: {names}")

    def names(self) -> set[str]:
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)


def from_source(
    rows: Sequence[Row],
    files: TensorFiles,
    abstract: Mapping[str, Any],
    dtype: Any,
    where: Path,
    tied: Mapping[str, str],
) -> dict[str, Any]:
    """Reads what the rows name into a tree of NumPy arrays of `dtype`.

    Args:
      abstract: a tree with a shape at every target of the rows.
      where: what an error names as the source.
      tied: {name: the tensor that it may repeat} (table.tied).

    Raises UserError that lists every missing, unexpected and mis-shaped tensor, and every copy that
    differs from its original.
    """
    shapes = {path: leaf.shape for path, leaf in flatten_dict(dict(abstract), sep="/").items()}
    expected = {
        source: (row, layer) for row in rows for layer, source in _sources(row, shapes[row.target])
    }
    names = {name for name in files.names() if not BUFFERS.fullmatch(name)}
    problems = [f"missing: {name}" for name in sorted(expected.keys() - names)]
    problems += [f"unexpected: {name}" for name in sorted(names - expected.keys() - tied.keys())]
    for name in sorted(expected.keys() & names):
        row, _ = expected[name]
        want = row.layout.source_shape(_layer_shape(row, shapes[row.target]))
        if files.shape(name) != want:
            problems.append(f"shape of {name}: found {files.shape(name)}, expected {want}")
    problems += [
        f"tied, but different from {original}: {copy}"
        for copy, original in tied.items()
        if {copy, original} <= names and not np.array_equal(files.read(copy), files.read(original))
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise UserError(
            f"{where}: tensors that do not fit the model ({len(problems)}):\n  {listed}"
        )

    tree: dict[str, np.ndarray] = {}
    for source, (row, layer) in expected.items():
        shape = shapes[row.target]
        value = row.layout.read(files.read(source), _layer_shape(row, shape)).astype(dtype)
        if layer is None:
            tree[row.target] = np.ascontiguousarray(value)
        else:
            tree.setdefault(row.target, np.empty(shape, dtype))[layer] = value
    return unflatten_dict(tree, sep="/")


def to_source(rows: Sequence[Row], tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tree's arrays under the source's names and in its layouts: what `from_source` reads."""
    flat = flatten_dict(dict(tree), sep="/")
    tensors = {}
    for row in rows:
        value = np.asarray(flat[row.target])
        for layer, source in _sources(row, value.shape):
            tensors[source] = np.ascontiguousarray(
                row.layout.write(value if layer is None else value[layer])
            )
    return tensors


def _sources(row: Row, shape: tuple[int, ...]) -> Iterator[tuple[int | None, str]]:
    if not row.per_layer:
        yield None, row.source
        return
    for layer in range(shape[0]):
        yield layer, row.source.format(i=layer)


def _layer_shape(row: Row, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if row.per_layer else shape
