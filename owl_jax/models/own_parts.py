"""Users' own parts: Python files whose parts are used like the built-in ones.

    # pool.py
    @dataclass(frozen=True)
    class PoolConfig(ConnectorPart):
        side: Size = 2
        architecture: Literal["pool"] = "pool"
        ...

A training config whose model has a `PoolConfig` names the file (`own_files`). For a saved model,
the user names it: load(parts=...) or --parts. A model directory never names such a file, because
loading the model would then run it.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, cast, get_args, get_type_hints

from owl_jax.errors import UserError, listed, shown
from owl_jax.models.config import PARTS, OwlConfig
from owl_jax.models.parts import ConnectorPart, LanguagePart, Part, VisionPart, is_own
from owl_jax.python_file import load_module

_KINDS: tuple[tuple[str, type[Part]], ...] = (
    ("vision", VisionPart),
    ("connector", ConnectorPart),
    ("llm", LanguagePart),
)


def add_parts(files: Iterable[str | Path]) -> None:
    """Adds the parts of each file to PARTS. Raises UserError like `load_parts`."""
    for file in files:
        load_parts(file)


def load_parts(file: str | Path) -> ModuleType:
    """Runs a Python file, adds its parts to PARTS (models/config.py), and returns it as a module.

    A file that was loaded before and has not changed is not run again.
    Raises UserError for a file that cannot be read, fails, or has no part or an unsuitable one, and
    for an `architecture` that another part already has.
    """
    path = os.fspath(file)
    module = load_module(path, "file of parts")
    parts = [
        (kind, value)
        for value in vars(module).values()
        for kind, base in _KINDS
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and isinstance(vars(value).get("architecture"), str)
    ]
    if not parts:
        raise UserError(
            f"{path}: no part; expected a class derived from VisionPart, ConnectorPart or "
            "LanguagePart (owl_jax/models/parts.py) with a default for `architecture`"
        )
    taken: dict[tuple[str, str], type[Part]] = {}
    for kind, part in parts:
        _check(path, kind, part)
        name = _architecture(part)
        if (other := taken.setdefault((kind, name), part)) is not part:
            raise UserError(
                f"{path}: {other.__name__} and {part.__name__} have the same architecture "
                f"{shown(name)}; give one of them another name"
            )
    for kind, part in parts:
        cast(dict[str, Any], PARTS[kind])[_architecture(part)] = part
    return module


def own_files(model: OwlConfig) -> tuple[str, ...]:
    """The files that define those of a model's parts that are not in this package.

    Raises UserError for a class that is not defined in a file, such as one in a notebook.
    """
    classes = [type(part) for kind in PARTS if (part := getattr(model, kind)) is not None]
    return tuple(dict.fromkeys(map(_file_of, filter(is_own, classes))))


def _file_of(part: type[Part]) -> str:
    try:
        return os.path.abspath(inspect.getfile(part))  # noqa: PTH100 - keeps links
    except (TypeError, OSError):
        raise UserError(
            f"{part.__name__} is not defined in a file; write it into a Python file and load that "
            "with owl_jax.models.own_parts.load_parts(FILE)"
        ) from None


def _check(path: str, kind: str, part: type[Part]) -> None:
    where = f"{path}: {part.__name__}"
    if missing := sorted(getattr(part, "__abstractmethods__", ())):
        raise UserError(f"{where} has no {listed(missing)} (owl_jax/models/parts.py)")
    # The class's own parameters, not inherited ones.
    parameters = vars(part).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise UserError(
            f"{where} is not a frozen dataclass; write @dataclass(frozen=True) above it"
        )
    _check_fields(where, part)
    if issubclass(part, VisionPart):
        _check_directories(where, part)
    name = _architecture(part)
    former = PARTS[kind].get(name)
    if former is not None and former.__module__ != part.__module__:
        raise UserError(
            f"{where} has the architecture {shown(name)}, the name of another {kind} part "
            f"({inspect.getfile(former)}); give it another name"
        )


def _check_fields(where: str, part: type[Part]) -> None:
    """Checks what a part says about its own fields."""
    name = _architecture(part)
    try:
        types = get_type_hints(part)
    except Exception:  # names that only type checkers import
        types = {}
    # Without a type of its own, the field is still that of the base class.
    if "architecture" not in inspect.get_annotations(part) or (
        get_args(types.get("architecture")) not in ((), (name,))
    ):
        raise UserError(
            f"{where}.architecture must be its own field; write "
            f'architecture: Literal["{name}"] = "{name}"'
        )
    fields = {field.name for field in dataclasses.fields(cast(Any, part))}
    for listing in ("DEFINING", "INIT_ONLY"):
        if unknown := [each for each in getattr(part, listing) if each not in fields]:
            raise UserError(f"{where}.{listing} names {listed(unknown)}, which is no field of it")


def _check_directories(where: str, part: type[VisionPart]) -> None:
    """Checks how an encoder reads the directories that it claims by their model_type."""
    missing = [
        name
        for name in ("from_hf", "weight_rows")
        if inspect.getattr_static(part, name) is vars(VisionPart)[name]
    ]
    if part.MODEL_TYPES and missing:
        raise UserError(
            f"{where} has MODEL_TYPES but no {listed(missing)} (owl_jax/models/parts.py)"
        )
    for other in PARTS["vision"].values():
        taken = {*part.MODEL_TYPES} & {*cast(type[VisionPart], other).MODEL_TYPES}
        if taken and other.__module__ != part.__module__:
            raise UserError(
                f"{where} has the model type {shown(min(taken))}, which "
                f"{other.__name__} already has; give another in MODEL_TYPES"
            )


def _architecture(part: type[Part]) -> str:
    name: str = vars(part)["architecture"]
    return name
