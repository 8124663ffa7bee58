"""Recognises whose weights some files hold, by the names of their tensors, for error messages."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from owl_jax.errors import UserError
from owl_jax.models.families import FAMILIES
from owl_jax.models.language import plain_models
from owl_jax.models.parts import LanguagePart, VisionPart
from owl_jax.models.vision import vision_types

_ENOUGH = 0.9  # of a part's tensors: files may lack some


def kinds_of(names: Collection[str]) -> list[str]:
    """The values of model_type whose models have tensors of these names; empty if unknown."""
    if families := [kind for kind, family in FAMILIES.items() if family.marks(names)]:
        return families
    parts: dict[str, type[VisionPart] | type[LanguagePart]] = {**vision_types(), **plain_models()}
    # A user's own parts need not have defaults.
    found = {
        kind: _held(part(), names)
        for kind, part in parts.items()
        if part.__module__.startswith("owl_jax.")
    }
    most = max(found.values())
    return [kind for kind, held in found.items() if held == most and held]


def refuse_other_kind(expected: str, names: Collection[str], where: Path) -> None:
    """Raises UserError if the tensors in a directory belong to a model of another kind.

    And if all of them have a prefix that the expected model's lack.

    expected: model_type in config.json.
    """
    found = kinds_of(names)
    if expected in found:
        return
    for wrapper in _prefixes(names):
        if expected in kinds_of({name.removeprefix(wrapper) for name in names}):
            raise UserError(
                f"{where}: all names of tensors begin with '{wrapper}', which a wrapper such as "
                "DistributedDataParallel or torch.compile added; save the inner model"
            )
    if found:
        raise UserError(
            f"{where}: config.json has model_type {expected!r}, but the weights are those of "
            f"{' or '.join(map(repr, found))}; copy both from the same model"
        )


def _prefixes(names: Collection[str]) -> Iterator[str]:
    """What all names begin with, up to each of their dots."""
    prefix = ""
    for part in min(names, default="").split("."):
        prefix += f"{part}."
        if not all(name.startswith(prefix) for name in names):
            return
        yield prefix


def _held(part: VisionPart | LanguagePart, names: Collection[str]) -> int:
    """How many of a part's kinds of tensors there are; 0 if too few."""
    rows = [row.source.format(i=0) for row in part.weight_rows()]
    prefix = part.BASE_PREFIX if isinstance(part, LanguagePart) else "vision_model."
    held = max(
        sum(spelled(row) in names for row in rows)
        for spelled in (str, lambda row: row.removeprefix(prefix))
    )
    return held if held >= _ENOUGH * len(rows) else 0
