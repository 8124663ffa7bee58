"""The files of an evaluation: results.json, verdicts.jsonl; read again to compare models."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Item, Judged, Verdict
from owl_jax.evaluation.data_files import checked, read_json, read_json_lines
from owl_jax.evaluation.scoring import Scored, with_verdict
from owl_jax.files import write_whole

RESULTS, VERDICTS, ANSWERS, REPORT = (
    "results.json",
    "verdicts.jsonl",
    "answers.jsonl",
    "report.html",
)


@dataclass(frozen=True)
class Provenance:
    """What a number depends on; part of every result.

    system: the name in tables. model: its hash, or that of the file of answers.
    parser: whose rules read the answers.
    items_hash: of what is asked (hash_of_items).
    """

    benchmark: str
    data: str
    items_hash: str
    system: str
    model: str
    mode: str
    template: str
    seed: int
    judge: str | None = None
    parser: str = "official"
    commit: str | None = None
    version: str = ""


def write_results(
    directory: Path,
    scored: Scored,
    provenance: Provenance,
    baselines: Mapping[str, float],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes both files, each whole or not at all; returns what results.json has.

    baselines: headline numbers by name. more: further keys.
    """
    kept = with_verdict(scored.judged)
    results = {
        "version": 1,
        **asdict(provenance),
        "headline": {
            "name": scored.benchmark.headline,
            "value": scored.value,
            "interval": [scored.interval.low, scored.interval.high],
        },
        "scores": scored.benchmark.scores(kept),
        "variants": scored.benchmark.variants(kept),
        "categories": {
            category.name: {"value": category.value, "items": category.items}
            for category in scored.categories
        },
        "baselines": dict(baselines),
        "items": len(scored.judged),
        "unparsed": scored.unparsed,
        "unanswered": scored.unanswered,
        "unjudged": scored.unjudged,
        **more,
    }
    lines = (
        {"id": one.item.id, "answer": one.answer, **asdict(one.verdict)} for one in scored.judged
    )
    write_whole(
        directory / VERDICTS,
        "".join(json.dumps(line, ensure_ascii=False, default=_plain) + "\n" for line in lines),
    )
    write_whole(
        directory / RESULTS, json.dumps(results, indent=1, ensure_ascii=False, default=_plain)
    )
    return results


@dataclass(frozen=True)
class Earlier:
    """An evaluation that has been written: results.json, and its judged items."""

    results: Mapping[str, Any]
    judged: Sequence[Judged]


def read_results(directory: Path, items: Sequence[Item], benchmark: str) -> Earlier:
    """An evaluation of the same items. Raises UserError for other data and missing files."""
    path = directory / RESULTS
    keys = ("benchmark", "items_hash", "system", "headline", "scores")
    results = checked(read_json(path), keys, str(path))
    if (found := results["benchmark"]) != benchmark:
        raise UserError(f"{directory} has results of {found}; expected {benchmark}")
    if results["items_hash"] != hash_of_items(items):
        raise UserError(f"{directory} has results on other data; evaluate both on the same files")
    known = {item.id: item for item in items}
    lines = read_json_lines(directory / VERDICTS, ("id", "answer", "parsed", "score", "details"))
    if len(lines) != len(known) or {line["id"] for line in lines} != known.keys():
        raise UserError(
            f"{directory / VERDICTS} has {len(lines):,} verdicts; expected one on each of the "
            f"{len(known):,} items: evaluate that system again"
        )
    judged = [
        Judged(
            known[line["id"]],
            line["answer"],
            Verdict(line["parsed"], line["score"], line["details"]),
        )
        for line in lines
    ]
    return Earlier(results, judged)


def hash_of_items(items: Sequence[Item]) -> str:
    """SHA-256 of what is asked: ids, questions, choices and truths."""
    digest = hashlib.sha256()
    for item in items:
        said = [item.id, item.question, *item.choices, item.truth]
        digest.update(json.dumps(said).encode())
    return digest.hexdigest()


def commit() -> str | None:
    """The commit, if owl_jax runs from a checkout."""
    here = Path(__file__)
    # Of owl_jax's own repository: an environment may be inside of another.
    is_ours = _git(here.parent, "ls-files", here.name)
    return (is_ours and _git(here.parent, "rev-parse", "HEAD")) or None


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; nothing without git or a repository."""
    try:
        found = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return found.stdout.strip()


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    return value.item()
