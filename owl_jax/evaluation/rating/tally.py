"""People's grades of answers: shares by system, and how far the raters agree.

Grades: A correct and satisfying; B acceptable with minor imperfections; C an attempt with
significant errors; D irrelevant or invalid (after Self-Instruct, arXiv 2212.10560, which mPLUG-Owl
follows).
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, listed, shown
from owl_jax.evaluation.benchmark import Item
from owl_jax.evaluation.data_files import checked, read_json

GRADES = ("A", "B", "C", "D")

# {system: {id of the item: its answer}}
Answers = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Ratings:
    """One rater's grades: {token of an answer: grade}."""

    rater: str
    grades: Mapping[str, str]


def token_of(system: str, id: str, seed: int) -> str:
    """What a page and its ratings call an answer, so that they do not name its system."""
    return hashlib.sha256(f"{seed}\n{system}\n{id}".encode()).hexdigest()[:20]


def read_ratings(path: Path, answers: Answers, seed: int) -> Ratings:
    """A file that the rating page exported. Raises UserError for another page's, or another file.

    Answers without a grade are left out; a rater need not finish.
    """
    record = checked(read_json(path), ("rater", "grades"), str(path))
    grades = checked(record["grades"], (), f"{path}: grades")
    known = {token_of(system, id, seed) for system, given in answers.items() for id in given}
    if unknown := [token for token in grades if token not in known]:
        raise UserError(
            f"{path}: {len(unknown):,} of {len(grades):,} grades are for answers that are not "
            "among these; expected the ratings of a page with the same systems and --seed"
        )
    if wrong := [grade for grade in grades.values() if grade not in GRADES]:
        raise UserError(f"{path}: a grade is {shown(wrong[0])}; expected {', '.join(GRADES)}")
    return Ratings(str(record["rater"]), grades)


def shares(grades: Iterable[str]) -> dict[str, float]:
    """{grade: its share}; empty without grades."""
    counts = Counter(grades)
    total = counts.total()
    return {grade: counts[grade] / total for grade in GRADES} if total else {}


def tally(
    items: Sequence[Item], answers: Answers, ratings: Sequence[Ratings], seed: int
) -> dict[str, Any]:
    """Shares of the grades, all raters together, and agreement.

    Returns {"systems": {system: {"all", "single_turn", "multi_turn": {grade: share}, "abilities":
    {ability: {grade: share}}, "ratings": count}}, "agreement": {"cohen": {"rater, rater": kappa},
    "fleiss": kappa or None}, "raters": {rater: count}}. A question that is both of a single turn
    and of several counts in both. Raises UserError if two files are one rater's.
    """
    names = [one.rater for one in ratings]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(
            f"two files have the ratings of {listed(twice)}; give each rater's ratings once"
        )
    systems = {}
    for system, given in answers.items():
        graded = [
            (item, one.grades[token])
            for item in items
            if item.id in given
            for token in [token_of(system, item.id, seed)]
            for one in ratings
            if token in one.grades
        ]
        abilities = sorted({ability for item, _ in graded for ability in abilities_of(item)})
        systems[system] = {
            "all": shares(grade for _, grade in graded),
            "single_turn": shares(g for item, g in graded if "single_turn" in turns_of(item)),
            "multi_turn": shares(g for item, g in graded if "multi_turn" in turns_of(item)),
            "abilities": {
                ability: shares(g for item, g in graded if ability in abilities_of(item))
                for ability in abilities
            },
            "ratings": len(graded),
        }
    return {
        "systems": systems,
        "agreement": {
            "cohen": {
                f"{a.rater}, {b.rater}": cohen_kappa(a.grades, b.grades)
                for a, b in itertools.combinations(ratings, 2)
            },
            "fleiss": fleiss_kappa([one.grades for one in ratings]),
        },
        "raters": {one.rater: len(one.grades) for one in ratings},
    }


def abilities_of(item: Item) -> Sequence[str]:
    """What a question of OwlEval tests; a question may test several things."""
    return tuple(item.fields.get("abilities", ()))


def turns_of(item: Item) -> Sequence[str]:
    """single_turn, multi_turn, or both."""
    return tuple(item.fields.get("turns", ()))


def cohen_kappa(first: Mapping[str, str], second: Mapping[str, str]) -> float | None:
    """Cohen's kappa (1960) of two raters, on what both graded.

    None if they graded nothing in common, or all of it with one same grade.
    """
    both = first.keys() & second.keys()
    if not both:
        return None
    ours = Counter(first[token] for token in both)
    theirs = Counter(second[token] for token in both)
    observed = sum(first[token] == second[token] for token in both) / len(both)
    chance = sum(ours[grade] * theirs[grade] for grade in GRADES) / len(both) ** 2
    return None if chance == 1 else (observed - chance) / (1 - chance)


def fleiss_kappa(raters: Sequence[Mapping[str, str]]) -> float | None:
    """Fleiss' kappa (1971) of two or more raters, on what all of them graded.

    None if there is nothing of the kind, or all of it has one same grade.
    """
    if len(raters) < 2:
        return None
    tokens = set.intersection(*(set(grades) for grades in raters))
    if not tokens:
        return None
    counts = [Counter(grades[token] for grades in raters) for token in tokens]
    number = len(raters)
    pairs = number * (number - 1)
    observed = sum(
        sum(count * (count - 1) for count in each.values()) / pairs for each in counts
    ) / len(counts)
    total = sum(counts, Counter())
    chance = sum((total[grade] / total.total()) ** 2 for grade in GRADES)
    return None if chance == 1 else (observed - chance) / (1 - chance)
