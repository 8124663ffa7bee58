"""The base model of an adapter: a readable name, and a hash (`fingerprint`) of its weights.

The hash covers a corner of every tensor of the language model, in bfloat16. It is cheap to compute
for weights in files or on many devices, and does not depend on the dtype in which they are loaded.
It detects mistakes, not tampering.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental.multihost_utils import process_allgather

from owl_jax.checkpoint import schema
from owl_jax.checkpoint.lazy_arrays import LazyArray
from owl_jax.errors import UserError, listed, shown
from owl_jax.files import read_json

BASE_FILE = "owl_jax_base.json"

# Elements along each axis except layers; any training changes them.
_CORNER = 16


@dataclass(frozen=True)
class Base:
    """The language model that an adapter was trained on."""

    name: str
    fingerprint: str

    @staticmethod
    def of(name: str, llm: Mapping[str, Any]) -> Base:
        """The base to record for an adapter of the language model `llm`."""
        return Base(name, base_hash(llm))

    def __str__(self) -> str:
        return f"{self.name or 'an unnamed base'} ({self.fingerprint[:14]})"


def base_hash(llm: Mapping[str, Any]) -> str:
    """Hashes the weights of a language model: arrays in memory, on devices or lazy."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten_dict(dict(llm), sep="/").items()):
        corner = _corner(leaf).astype(ml_dtypes.bfloat16)
        digest.update(f"{path} {tuple(leaf.shape)}\n".encode())
        digest.update(np.ascontiguousarray(corner).tobytes())
    return digest.hexdigest()


def check_base(adapter: Path, llm: Mapping[str, Any], name: str, insist: bool) -> None:
    """Raises UserError if the adapter records another base than `llm`, unless `insist`."""
    recorded = read_base(adapter)
    if recorded is None or insist:
        return
    found = Base.of(name, llm)
    if found.fingerprint != recorded.fingerprint:
        raise UserError(
            f"{adapter} was trained on {recorded}, not on {found}; load that base, or allow "
            "another one: owl_jax.load(..., any_base=True), --any_base or, in a training, "
            "--config.allow_base_mismatch=True"
        )


def write_base(directory: Path, base: Base) -> None:
    """Records the base beside an adapter."""
    text = json.dumps(asdict(base), indent=2) + "\n"
    (directory / BASE_FILE).write_text(text, encoding="utf-8")


def read_base(directory: Path) -> Base | None:
    """The base recorded in a directory, or None. Raises UserError for a damaged record."""
    path = directory / BASE_FILE
    if not path.exists():
        return None
    values = read_json(path)
    if values.keys() != {"name", "fingerprint"}:
        raise UserError(
            f"{path}: expected name and fingerprint, found {listed(map(shown, sorted(values)))}"
        )
    record = schema.convert(path, values, schema.BaseRecord)
    return Base(record.name, record.fingerprint)


def _corner(leaf: LazyArray) -> np.ndarray:
    # Stacked matrices: the corner of every layer.
    part = tuple(
        slice(0, size if axis == 0 and len(leaf.shape) > 2 else min(size, _CORNER))
        for axis, size in enumerate(leaf.shape)
    )
    corner = leaf[part]
    if isinstance(corner, jax.Array) and not corner.is_fully_addressable:
        corner = process_allgather(corner, tiled=True)
    return np.asarray(corner)
