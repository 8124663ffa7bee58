"""The files of a benchmark that people rate: answers as published, the page, the tally."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Item
from owl_jax.evaluation.rating.page import write_rating_page
from owl_jax.evaluation.rating.published import read_published, write_published
from owl_jax.evaluation.rating.report import write_rating_report
from owl_jax.evaluation.rating.tally import Answers, Ratings, read_ratings, tally
from owl_jax.files import write_whole

PUBLISHED, PAGE, TALLY, REPORT = (
    "published.jsonl",
    "rating.html",
    "ratings.json",
    "ratings.html",
)


def read_rated(
    items: Sequence[Item],
    answers: Mapping[str, str],
    system: str,
    others: Sequence[Path],
    ratings: Sequence[Path],
    seed: int,
) -> tuple[Answers, list[Ratings]]:
    """The answers of all systems and the grades of all raters.

    answers: of `system`, by the items' ids. others: files of other systems' answers. ratings: files
    that the page exported, one of each rater. seed: of the order of answers on the page.

    Raises UserError for a system that is there twice, and for files that are not what they should
    be.
    """
    systems = {system: answers}
    for path in others:
        found = read_published(path, items)
        if found.model_id in systems:
            raise UserError(f"{path}: the system {found.model_id} is there twice; name it another")
        systems[found.model_id] = found.answers
    return systems, [read_ratings(path, systems, seed) for path in ratings]


def write_rated(
    directory: Path,
    items: Sequence[Item],
    answers: Mapping[str, str],
    system: str,
    others: Sequence[Path],
    ratings: Sequence[Path],
    seed: int,
) -> dict[str, int] | None:
    """Writes published.jsonl and rating.html; with ratings also ratings.json and ratings.html.

    The arguments are those of `read_rated`. Returns the raters with their numbers of grades, None
    without ratings. Raises UserError like `read_rated`, and if two files are one rater's.
    """
    systems, graded = read_rated(items, answers, system, others, ratings, seed)
    write_published(directory / PUBLISHED, items, answers, system)
    write_rating_page(directory / PAGE, items, systems, seed)
    if not graded:
        return None
    counted = tally(items, systems, graded, seed)
    write_whole(directory / TALLY, json.dumps(counted, indent=1, ensure_ascii=False))
    write_rating_report(directory / REPORT, counted)
    raters: dict[str, int] = counted["raters"]
    return raters
