"""HallusionBench's tables: by question, figure and question pair, and the causes of errors.

Source: github.com/tianyi-lab/HallusionBench (utils.py, evaluation.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from owl_jax.evaluation.benchmark import Item, Judged, grouped, mean

WRONG, CORRECT, UNCLEAR = "0", "1", "2"  # the judge's verdicts, as the official code names them
_HARD = "2"  # visual_input of an edited picture

Key = tuple[str, ...]
Right = Callable[[Judged], bool]


def official(judged: Sequence[Judged]) -> dict[str, Any]:
    """The official numbers under their names; without a judge those that need none."""
    parts = {
        **{
            kind: [one for one in judged if one.item.fields["kind"] == kind]
            for kind in ("VD", "VS")
        },
        "Overall": judged,
    }
    questions = {name: percent(mean(map(accepted, some))) for name, some in parts.items()}
    figures = {name: _figures(some) for name, some in parts.items()}
    pairs = {
        name: {
            level: percent(whole_share(some, question_key, accepted))
            for level, some in (("Easy", _level(part, False)), ("Hard", _level(part, True)))
        }
        | {"Total": percent(whole_share(part, question_key, accepted))}
        for name, part in parts.items()
    }
    scores: dict[str, Any] = {
        "aAcc": questions["Overall"],
        "fAcc": _percent_of(figures["Overall"]["correct"], figures["Overall"]["total"]),
        "qAcc": pairs["Overall"]["Total"],
        "easy aAcc": pairs["Overall"]["Easy"],
        "hard aAcc": pairs["Overall"]["Hard"],
        "per_question": [["per question", "Total"], *map(list, questions.items())],
        "per_figure": [
            ["per figure", "Correct", "Wrong", "Score"],
            *([name, *_figure_row(counts)] for name, counts in figures.items()),
        ],
        "per_question_pair": [
            ["per question pair", "Easy", "Hard", "Total"],
            *([name, *row.values()] for name, row in pairs.items()),
        ],
        "yes_no_bias": _bias(judged),
        "figure_stat": {
            "note": "all accuracy per image (consistency test)",
            **figures["Overall"],
        },
    }
    if with_judge(judged):
        causes = _causes(judged)
        scores["pair_stat"] = {"note": "all accuracy per question pair", **causes}
        scores["consistency_and_causes"] = _summary(
            scores["yes_no_bias"], figures["Overall"], causes
        )
    return scores


def _summary(
    bias: Mapping[str, float], figures: Mapping[str, float], causes: Mapping[str, int]
) -> dict[str, float]:
    errors = causes["LH_cg"] + causes["VI_cg"] + causes["Mix_cg"]
    return {
        "Yes/No Bias (Pct Diff)": bias["diff"],
        "Yes/No Bias (FP Ratio)": bias["fp"],
        **{
            f"Consistency Test ({name})": _percent_of(figures[name], figures["total"])
            for name in ("correct", "inconsistent", "wrong")
        },
        **{
            name: _percent_of(causes[key], errors)
            for name, key in (("LH", "LH_cg"), ("VI", "VI_cg"), ("Mixed", "Mix_cg"))
        },
    }


def _figures(judged: Sequence[Judged]) -> dict[str, float]:
    """Figures with all, none and some of their questions right; questions without one are none."""
    shown_ones = [
        one for one in judged if one.item.fields["kind"] == "VD" or not is_original(one.item)
    ]
    shares = [mean(map(accepted, few)) for few in _grouped(shown_ones, figure_key)]
    correct, wrong = shares.count(1.0), shares.count(0.0)
    return {
        "total": len(shares),
        "correct": correct,
        "wrong": wrong,
        "inconsistent": len(shares) - correct - wrong,
        "score": mean(shares),
    }


def _figure_row(counts: Mapping[str, float]) -> list[float]:
    correct, inconsistent, wrong = (
        _percent_of(counts[name], counts["total"]) for name in ("correct", "inconsistent", "wrong")
    )
    return [correct, inconsistent + wrong, round(counts["score"], 4)]


def _bias(judged: Sequence[Judged]) -> dict[str, float]:
    """As the official code has it: a model's yes is that its being right equals the truth."""
    truths = [one.item.truth == "Yes" for one in judged]
    said = [accepted(one) == truth for one, truth in zip(judged, truths, strict=True)]
    wrong = [one.item.truth == "No" for one in judged if not accepted(one)]
    return {"diff": mean(said) - mean(truths), "fp": mean(wrong)}


def _causes(judged: Sequence[Judged]) -> dict[str, int]:
    """Wrong question pairs and (cg) wrong answers by cause: language hallucination (LH), visual
    illusion (VI), or both (Mix)."""
    originals = {
        question_key(one.item): one.verdict.details["code"]
        for one in judged
        if is_original(one.item)
    }
    pairs = [
        [_cause(one, originals.get(question_key(one.item), UNCLEAR)) for one in few]
        for few in _grouped(judged, question_key)
    ]
    wholes = [(any(lh for lh, _ in pair), any(vi for _, vi in pair)) for pair in pairs]
    singles = [cause for pair in pairs for cause in pair]
    correct = sum(all(map(accepted, few)) for few in _grouped(judged, question_key))
    return {
        "total": len(pairs),
        "total_q": len(judged),
        "correct": correct,
        "wrong": len(pairs) - correct,
        **_named(wholes, ""),
        **_named(singles, "_cg"),
    }


def _named(causes: Sequence[tuple[bool, bool]], ending: str) -> dict[str, int]:
    return {
        f"LH{ending}": causes.count((True, False)),
        f"VI{ending}": causes.count((False, True)),
        f"Mix{ending}": causes.count((True, True)),
    }


def _cause(one: Judged, original: str) -> tuple[bool, bool]:
    """Whether language, and whether vision, is to blame; neither for what is right.

    original: the verdict on the same question about figure 0.
    """
    code, same, fields = one.verdict.details["code"], one.verdict.details["same"], one.item.fields
    if accepted(one):
        return False, False
    if fields["kind"] == "VD":
        # The original is right and the changed figure got the same answer: it may be either.
        changed = not is_original(one.item) and original == CORRECT and code == WRONG
        return changed and same, True
    if is_original(one.item):
        return True, False
    if original == WRONG:
        only_language = code == WRONG and same
        return True, not only_language
    repeated = original == CORRECT and code == WRONG and fields["visual_input"] == _HARD and same
    return repeated, not repeated


def _level(judged: Iterable[Judged], hard: bool) -> list[Judged]:
    return [one for one in judged if (one.item.fields["visual_input"] == _HARD) == hard]


def whole_share(judged: Iterable[Judged], key: Callable[[Item], Key], right: Right) -> float:
    """The share of groups of which all are right."""
    return mean(all(map(right, few)) for few in _grouped(judged, key))


def _grouped(judged: Iterable[Judged], key: Callable[[Item], Key]) -> list[list[Judged]]:
    return list(grouped(judged, lambda one: key(one.item)).values())


def question_key(item: Item) -> Key:
    """Of the question with all its figures, a "question pair"."""
    fields = item.fields
    return fields["kind"], fields["subcategory"], fields["set"], fields["question"]


def figure_key(item: Item) -> Key:
    """Of the figure with all its questions."""
    fields = item.fields
    return fields["kind"], fields["subcategory"], fields["set"], fields["figure"]


def is_original(item: Item) -> bool:
    """Whether it is about figure 0: the unedited picture (VD), or none (VS)."""
    return item.fields["figure"] == "0"


def accepted(one: Judged) -> bool:
    """Whether it counts as right."""
    return one.verdict.score == 1.0


def with_judge(judged: Sequence[Judged]) -> bool:
    """Whether a judge gave the verdicts."""
    return any(one.verdict.details.get("judge") for one in judged)


def percent(share: float) -> float:
    """Per cent with four decimals."""
    return round(100 * share, 4)


def _percent_of(count: float, total: float) -> float:
    return percent(count / total) if total else 0.0
