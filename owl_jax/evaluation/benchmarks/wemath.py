"""We-Math: problems of two or three steps, asked as a whole and step by step. arXiv 2407.01284,
github.com/We-Math/We-Math (four_dimensional_metrics.py, accuracy.py)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, listed, shown
from owl_jax.evaluation.benchmark import (
    Item,
    Judged,
    Medium,
    Question,
    RuleBenchmark,
    by_group,
    grouped,
    is_right,
    mean,
)
from owl_jax.evaluation.data_files import check_texts, find, read_json_records

_KEYS = ("ID", "key", "question", "option", "answer", "image_path", "knowledge concept")
_NODE_KEYS = ("root2", "full node")
_STEPS = {
    "2steps": ("2steps_1", "2steps_2", "2steps_multi"),
    "3steps": ("3steps_1", "3steps_2", "3steps_3", "3steps_multi"),
}
_WHOLE = "_multi"
_PROBLEMS = 525  # of the official set, which its code divides by
_LETTERS = "ABCDEFGH"
_REMOVED = str.maketrans(dict.fromkeys("><:.", ""))
_OPTION = re.compile(r"(?:^|;)\s*([A-H])\s*[.．]\s*")


class WeMath(RuleBenchmark):
    """525 problems of two or three steps, 1,740 questions.

    A problem is mastered (CM) if the whole and its steps are right, learnt by rote (RM) if only the
    whole is, not generalised (IG) if only its steps are, and lacks knowledge (IK) otherwise.
    Strict: one wrong step makes it RM; loose: all steps wrong do.
    Score: (N - IG / 2 - RM - IK) / N.
    An answer means the first character after its last "Answer", if that is A to H.
    """

    name = "wemath"
    kind = "choice"
    modes = ("generate", "letter", "rank")
    headline = "score (strict)"
    max_new_tokens = 512

    def read(self, data: Path) -> list[Item]:
        """testmini.json, with pictures at its paths, and knowledge_structure_nodes.json."""
        path = find(data, "testmini.json")
        records = read_json_records(path, _KEYS)
        domains = _read_domains(path.with_name("knowledge_structure_nodes.json"))
        items = [
            _item(record, domains, path.parent, f"{path}: entry {number}")
            for number, record in enumerate(records, 1)
        ]
        _check_whole(items, path)
        return items

    def question(self, item: Item) -> Question:
        text = (
            "Now, we require you to solve a multiple-choice math question. Please briefly describe "
            "your thought process and provide the final answer(option).\n"
            f"Question: {item.question}\nOption: {item.fields['option']}\n"
            "Regarding the format, please answer following the template below, and be sure to "
            "include two <> symbols:\n"
            "<Thought process>: <<your thought process>> <Answer>: <<your option>>"
        )
        return Question((*item.media, text))

    def parse(self, item: Item, answer: str) -> str | None:
        del item
        return after_answer(answer)

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """official_four_dimensional divides by 525 problems, as the official code does also for
        fewer; same_with_true_total (variants) by their number."""
        counts = _count(judged)
        return {
            "official_four_dimensional": {
                **_dimensions(counts, "Strict"),
                **_dimensions(counts, "Loose"),
            },
            "official_counts": {
                "InadequateGeneralization": counts.not_generalised,
                "InsufficientKnowledge": counts.no_knowledge,
                "CompleteMastery_loose": counts.mastered_loose,
                "CompleteMastery_strict": counts.mastered_strict,
                "RoteMemorization_loose": counts.rote_loose,
                "RoteMemorization_strict": counts.rote_strict,
            },
            "official_accuracy": {
                "One-step(S1)": _percent(_step_accuracy(judged)),
                "Two-step(S2)": _percent(_accuracy(judged, "2steps_multi")),
                "Three-step(S3)": _percent(_accuracy(judged, "3steps_multi")),
                **{name: _percent(share) for name, share in _by_domain(judged).items()},
            },
        }

    def headline_value(self, judged: Sequence[Judged]) -> float:
        counts = _count(judged)
        return counts.score(counts.rote_strict, counts.problems)

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """same_with_true_total: the official formulas over the number of problems at hand."""
        counts = _count(judged)
        number = counts.problems
        return {
            "same_with_true_total": {
                "problems": number,
                "InadequateGeneralization_rate": _percent(counts.not_generalised / number),
                "InsufficientKnowledge_rate": _percent(counts.no_knowledge / number),
                "CompleteMastery_loose_rate": _percent(counts.mastered_loose / number),
                "CompleteMastery_strict_rate": _percent(counts.mastered_strict / number),
                "RoteMemorization_loose_rate": _percent(
                    _rote_share(counts.rote_loose, counts.mastered_loose)
                ),
                "RoteMemorization_strict_rate": _percent(
                    _rote_share(counts.rote_strict, counts.mastered_strict)
                ),
                "score_strict": counts.score(counts.rote_strict, number),
                "score_loose": counts.score(counts.rote_loose, number),
            }
        }


def after_answer(answer: str) -> str | None:
    """The official parser."""
    text = answer.split("Answer")[-1].strip().translate(_REMOVED).strip()
    return text[0] if text and text[0] in _LETTERS else None


@dataclass(frozen=True)
class _Counts:
    """Numbers of problems."""

    problems: int
    not_generalised: int
    no_knowledge: int
    mastered_strict: int
    mastered_loose: int
    rote_strict: int
    rote_loose: int

    def score(self, rote: int, total: int) -> float:
        return (total - 0.5 * self.not_generalised - rote - self.no_knowledge) / total


def _item(
    record: Mapping[str, Any], domains: Mapping[str, Sequence[str]], folder: Path, where: str
) -> Item:
    check_texts(record, _KEYS[1:], where)
    key, steps = record["key"], record["key"].partition("_")[0]
    if key not in _STEPS.get(steps, ()):
        raise UserError(
            f"{where} has the key {shown(key)}; expected one of "
            f"{', '.join(name for names in _STEPS.values() for name in names)}"
        )
    return Item(
        id=f"{key}/{record['ID']}",
        question=record["question"],
        media=(Medium("image", folder / record["image_path"]),),
        choices=tuple(_OPTION.split(record["option"])[2::2]),
        truth=record["answer"],
        category=f"whole, {steps}" if key.endswith(_WHOLE) else "one step",
        group=f"{steps}/{record['ID']}",
        fields={
            "key": key,
            "option": record["option"],
            "concept": record["knowledge concept"],
            "domains": tuple(domains.get(record["knowledge concept"], ())),
        },
    )


def _read_domains(path: Path) -> dict[str, list[str]]:
    """The domain of each node of a concept, by concept; nothing without the file."""
    domains: dict[str, list[str]] = {}
    nodes = read_json_records(path, _NODE_KEYS) if path.is_file() else []
    for number, node in enumerate(nodes, 1):
        check_texts(node, _NODE_KEYS, f"{path}: entry {number}")
        domains.setdefault(node["full node"].split("_")[-1], []).append(node["root2"])
    return domains


def _check_whole(items: Sequence[Item], path: Path) -> None:
    problems: dict[str, set[str]] = {}
    for item in items:
        problems.setdefault(item.group, set()).add(item.fields["key"])
    for group, keys in problems.items():
        if missing := set(_STEPS[group.partition("/")[0]]) - keys:
            raise UserError(f"{path}: problem {group} lacks {listed(sorted(missing))}")


def _count(judged: Sequence[Judged]) -> _Counts:
    kinds: Counter[str] = Counter()
    problems = by_group(judged).values()
    for members in problems:
        steps = [is_right(one) for one in members if not one.item.fields["key"].endswith(_WHOLE)]
        if not all(is_right(one) for one in members if one.item.fields["key"].endswith(_WHOLE)):
            kinds["not_generalised" if all(steps) else "no_knowledge"] += 1
            continue
        kinds["mastered_strict" if all(steps) else "rote_strict"] += 1
        kinds["mastered_loose" if any(steps) else "rote_loose"] += 1
    return _Counts(
        len(problems),
        kinds["not_generalised"],
        kinds["no_knowledge"],
        kinds["mastered_strict"],
        kinds["mastered_loose"],
        kinds["rote_strict"],
        kinds["rote_loose"],
    )


def _dimensions(counts: _Counts, name: str) -> dict[str, str]:
    strict = name == "Strict"
    mastered = counts.mastered_strict if strict else counts.mastered_loose
    rote = counts.rote_strict if strict else counts.rote_loose

    def share(number: int) -> str:
        return f"{_percent(number / _PROBLEMS)} ({number})"

    return {
        f"Score ({name})": _percent(counts.score(rote, _PROBLEMS)),
        f"InsufficientKnowledge ({name})": share(counts.no_knowledge),
        f"InadequateGeneralization ({name})": share(counts.not_generalised),
        f"CompleteMastery ({name})": share(mastered),
        f"RoteMemorization ({name})": f"{_percent(_rote_share(rote, mastered))} ({rote})",
    }


def _rote_share(rote: int, mastered: int) -> float:
    return rote / (rote + mastered) if rote + mastered else 0.0


def _accuracy(judged: Sequence[Judged], key: str) -> float:
    return mean(is_right(one) for one in judged if one.item.fields["key"] == key)


def _steps(judged: Sequence[Judged]) -> list[Judged]:
    return [one for one in judged if not one.item.fields["key"].endswith(_WHOLE)]


def _step_accuracy(judged: Sequence[Judged]) -> float:
    """The official join counts a step once for each node of its concept."""
    right = []
    for one in _steps(judged):
        right += [is_right(one)] * max(1, len(one.item.fields["domains"]))
    return mean(right)


def _by_domain(judged: Sequence[Judged]) -> dict[str, float]:
    """The mean over the nodes of a domain of the accuracy of the steps with their concept."""
    concepts = grouped(_steps(judged), lambda one: one.item.fields["concept"])
    domains: dict[str, list[float]] = {}
    for members in concepts.values():
        for domain in members[0].item.fields["domains"]:
            domains.setdefault(domain, []).append(mean(map(is_right, members)))
    return {domain: mean(shares) for domain, shares in sorted(domains.items())}


def _percent(share: float) -> str:
    return f"{share:.2%}"
