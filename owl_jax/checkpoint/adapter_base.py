"""The base model of an adapter: a readable name, and a hash (`fingerprint`) of its weights.

The hash covers a corner of every tensor of the language model, in bfloat16. It is cheap to compute
for weights in files or on many devices, and does not depend on the dtype in which they are loaded.
It detects mistakes, not tampering.
"""

from __future__ import annotations

import dataclasses
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
from owl_jax.checkpoint.schema import BASE_FILE
from owl_jax.errors import UserError, listed, shown
from owl_jax.files import read_json
from owl_jax.media.resizing import Resizing
from owl_jax.models.bounds import checked
from owl_jax.models.config import OwlConfig, read_conversation

# The fields of OwlConfig that do not change weights. Earlier versions did not record them.
_TRAINED_WITH = ("conversation", "resizing")

# Elements along each axis except layers; any training run changes them.
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


def check_base(adapter: Path, llm: Mapping[str, Any], name: str, any_base: bool) -> None:
    """Raises UserError if the adapter records another base than `llm`, unless `any_base`."""
    recorded = read_base(adapter)
    if recorded is None or any_base:
        return
    found = Base.of(name, llm)
    if found.fingerprint != recorded.fingerprint:
        raise UserError(
            f"{adapter} was trained on {recorded}, not on {found}; load that base, or allow "
            "another one: owl_jax.load(..., any_base=True), --any_base or, in training, "
            "--config.allow_base_mismatch=True"
        )


def write_base(directory: Path, base: Base, config: OwlConfig) -> None:
    """Records beside an adapter its base, and what else it was trained with."""
    values = config.to_dict()
    trained_with = {name: values[name] for name in _TRAINED_WITH}
    text = json.dumps({**asdict(base), **trained_with}, indent=2) + "\n"
    (directory / BASE_FILE).write_text(text, encoding="utf-8")


def read_base(directory: Path) -> Base | None:
    """The base recorded in a directory, or None. Raises UserError for a damaged record."""
    record = _read(directory / BASE_FILE)
    return None if record is None else Base(record.name, record.fingerprint)


def with_recorded(config: OwlConfig, adapter: Path) -> OwlConfig:
    """The config with the conversation format and the resizing that an adapter records.

    Raises UserError for a damaged record.
    """
    record = _read(adapter / BASE_FILE)
    if record is None:
        return config
    changes: dict[str, Any] = {}
    try:
        if record.conversation is not None:
            changes["conversation"] = read_conversation(record.conversation)
        if record.resizing is not None:
            changes["resizing"] = checked(record.resizing, Resizing, "resizing")
    except TypeError as error:
        raise UserError(f"{adapter / BASE_FILE}: {error}") from None
    return dataclasses.replace(config, **changes)


def _read(path: Path) -> schema.BaseRecord | None:
    if not path.exists():
        return None
    values = read_json(path)
    if values.keys() - set(_TRAINED_WITH) != {"name", "fingerprint"}:
        raise UserError(
            f"{path}: expected name and fingerprint, found {listed(map(shown, sorted(values)))}"
        )
    return schema.convert(path, values, schema.BaseRecord)


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
