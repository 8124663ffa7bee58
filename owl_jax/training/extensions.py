"""Reads and checks the objective, hooks and evaluators of a config before the run starts.

They are objects in the config, so a config file can define its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from owl_jax.errors import UserError, shown
from owl_jax.training.evaluators.evaluator import Evaluator, check_evaluators
from owl_jax.training.hooks.hook import AfterStep, Hook
from owl_jax.training.objectives.objective import MakeObjective

KEYS = ("objective", "hooks", "evaluators")


def check_extensions(config: ConfigDict) -> None:
    """Raises UserError for an entry of the wrong type."""
    read_objective(config)
    read_hooks(config)
    read_evaluators(config)


def read_objective(config: ConfigDict) -> MakeObjective:
    """The function that builds the objective. Raises UserError."""
    make: MakeObjective = config.objective
    if not callable(make):
        raise UserError(
            f"config.objective={shown(make)}: expected a function (model, compute) -> objective, "
            "such as next_token of owl_jax.training.objectives.next_token"
        )
    return make


def read_hooks(config: ConfigDict) -> list[Hook]:
    """The config's hooks; functions are called after each step. Raises UserError."""
    hooks: list[Hook] = []
    for number, hook in enumerate(_entries(config, "hooks")):
        key = f"config.hooks[{number}]"
        if isinstance(hook, Hook):
            hooks.append(hook)
        elif isinstance(hook, type) or not callable(hook):
            hint = f"; write {hook.__name__}(...)" if isinstance(hook, type) else ""
            raise UserError(
                f"{key} is {_described(hook)}; expected a Hook (owl_jax/training/hooks/hook.py) or "
                f"a function that takes a StepEvent{hint}"
            )
        else:
            hooks.append(AfterStep(hook))
    return hooks


def read_evaluators(config: ConfigDict) -> list[Evaluator]:
    """The config's evaluators, checked. Raises UserError."""
    evaluators: list[Evaluator] = []
    for number, evaluator in enumerate(_entries(config, "evaluators")):
        if not isinstance(evaluator, Evaluator):
            hint = f"; write {evaluator.__name__}(...)" if isinstance(evaluator, type) else ""
            raise UserError(
                f"config.evaluators[{number}] is {_described(evaluator)}; expected an Evaluator "
                f"(owl_jax/training/evaluators/evaluator.py), such as HeldOutLoss(...){hint}"
            )
        evaluators.append(evaluator)
    check_evaluators(evaluators, config)
    return evaluators


def as_json(config: ConfigDict) -> str:
    """The config as JSON: extensions by their repr, functions by name."""
    shown = config.copy_and_resolve_references()
    with shown.unlocked(), shown.ignore_type():
        shown.objective = _described(config.objective)
        for key in ("hooks", "evaluators"):
            shown[key] = [_described(item) for item in config[key]]
    text: str = shown.to_json_best_effort(indent=2)
    return text


def _entries(config: ConfigDict, key: str) -> Sequence[Any]:
    entries = config[key]
    if isinstance(entries, str) or not isinstance(entries, Sequence):
        raise UserError(f"config.{key}={shown(entries)}: expected a list")
    return entries


def _described(item: Any) -> str:
    if isinstance(item, type) or (callable(item) and hasattr(item, "__qualname__")):
        return f"{item.__module__}.{item.__qualname__}"
    has_own_text = type(item).__repr__ is not object.__repr__
    return shown(item, 200) if has_own_text else f"{type(item).__qualname__}()"
