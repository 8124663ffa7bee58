"""Partitions parameters into trainable and frozen by an ordered list of (pattern, recipe name).

A pattern is a regular expression that must match the whole "/"-joined path of a parameter
("llm/layers/attention/q_proj/kernel"). The first match decides. The recipe name "frozen" is
reserved: such a parameter has no gradient, no optimizer state and no master copy.

A parameter tree is a nested dict; its leaves may be arrays, tracers or ShapeDtypeStructs.
"""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from owl_jax.errors import UserError
from owl_jax.training.optimizer import Recipe

FROZEN = "frozen"

Rules = Sequence[tuple[str, str]]
Tree = dict[str, Any]


def assign(params: Mapping[str, Any], rules: Rules, recipes: Collection[str]) -> Tree:
    """Assigns a recipe to every parameter.

    Args:
      params: a parameter tree; shapes are enough.
      rules: (pattern, recipe name) in order of precedence.
      recipes: the names that a rule may use besides "frozen".

    Returns:
      The same tree with the recipe's name (or "frozen") at each leaf.

    Raises:
      UserError: lists every parameter that no rule matches, every rule that names an unknown
        recipe, is not a regular expression or matches nothing, and every training rule that
        earlier rules shadow completely.
    """
    compiled = _compile(rules, recipes)
    matching = [False] * len(compiled)
    deciding = [False] * len(compiled)
    unmatched = []
    labels = {}
    for joined in flatten_dict(dict(params), sep="/"):
        matches = [i for i, (pattern, _) in enumerate(compiled) if pattern.fullmatch(joined)]
        if not matches:
            unmatched.append(joined)
            continue
        for i in matches:
            matching[i] = True
        deciding[matches[0]] = True
        labels[joined] = compiled[matches[0]][1]

    faults = []
    if unmatched:
        faults.append(f"no rule matches the parameters {', '.join(sorted(unmatched))}")
    for (pattern, recipe), matched, decided in zip(compiled, matching, deciding, strict=True):
        if not matched:
            faults.append(f"the rule ({pattern.pattern!r}, {recipe!r}) matches no parameter")
        elif not decided and recipe != FROZEN:
            # A final rule that freezes the rest may find nothing left to freeze. A training rule
            # that trains nothing is always a mistake.
            faults.append(
                f"the rule ({pattern.pattern!r}, {recipe!r}) trains nothing: earlier rules match "
                "all of its parameters"
            )
    if faults:
        raise UserError(
            f"partition rules: {'; '.join(faults)}. A pattern must match a whole path such as "
            f"{next(iter(flatten_dict(dict(params), sep='/')), '')!r}, and the first match decides"
        )
    return unflatten_dict(labels, sep="/")


def split(params: Mapping[str, Any], labels: Mapping[str, Any]) -> tuple[Tree, Tree]:
    """Splits a tree by its labels into (trainable, frozen), both without empty subtrees."""
    names = flatten_dict(dict(labels))
    trainable: dict[tuple[str, ...], Any] = {}
    frozen: dict[tuple[str, ...], Any] = {}
    for path, leaf in flatten_dict(dict(params)).items():
        (frozen if names[path] == FROZEN else trainable)[path] = leaf
    return unflatten_dict(trainable), unflatten_dict(frozen)


def merge(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> Tree:
    """The inverse of `split`.

    Raises:
      ValueError: a path is in both trees.
    """
    left, right = flatten_dict(dict(trainable)), flatten_dict(dict(frozen))
    for path in left.keys() & right.keys():
        raise ValueError(f"{'/'.join(path)} is in both trees")
    return unflatten_dict(left | right)


def table(
    params: Mapping[str, Any], labels: Mapping[str, Any], recipes: Mapping[str, Recipe]
) -> str:
    """The table printed when training starts: one row per top-level subtree and recipe.

    Args:
      params: a parameter tree; shapes are enough.
      labels: what `assign` returned for it.
      recipes: the recipes by name; the table shows their peak learning rates.

    Returns:
      Lines without a final newline; the last is the total.
    """
    counts: dict[tuple[str, str], int] = defaultdict(int)
    names = flatten_dict(dict(labels))
    for path, leaf in flatten_dict(dict(params)).items():
        counts[path[0], names[path]] += math.prod(leaf.shape)

    rows = [("partition", "recipe", "parameters", "trainable", "learning rate")]
    for (subtree, name), count in sorted(counts.items()):
        trained = "-" if name == FROZEN else f"{count:,}"
        rate = "-" if name == FROZEN else f"{recipes[name].learning_rate:g}"
        rows.append((subtree, name, f"{count:,}", trained, rate))
    total = sum(counts.values())
    trained_total = sum(count for (_, name), count in counts.items() if name != FROZEN)
    rows.append(("total", "", f"{total:,}", f"{trained_total:,}", ""))

    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _compile(rules: Rules, recipes: Collection[str]) -> list[tuple[re.Pattern[str], str]]:
    if FROZEN in recipes:
        raise UserError(f"the recipe name {FROZEN!r} is reserved; give the recipe another name")
    compiled = []
    faults = []
    for pattern, recipe in rules:
        if recipe != FROZEN and recipe not in recipes:
            faults.append(f"({pattern!r}, {recipe!r}) names an unknown recipe")
        try:
            compiled.append((re.compile(pattern), recipe))
        except re.error as error:
            faults.append(f"({pattern!r}, {recipe!r}) is not a regular expression: {error}")
    if faults:
        known = ", ".join(sorted({FROZEN, *recipes}))
        raise UserError(f"partition rules: {'; '.join(faults)}. The recipes are: {known}")
    return compiled
