"""Yes or no: how toolkits read it, what is counted. Each benchmark's own rule is in its file."""

from __future__ import annotations

from collections.abc import Sequence

from owl_jax.evaluation.scorers.vqa import without_marks


def whole_word(answer: str) -> str | None:
    """VLMEvalKit's rule: "Yes" or "No" if exactly one of the two is a word of the answer.

    Source: open-compass/VLMEvalKit, YOrN_Extraction.
    """
    found = {"yes", "no"} & set(without_marks(answer.lower()).split())
    return found.pop().capitalize() if len(found) == 1 else None


def confusion(pairs: Sequence[tuple[str | None, str]]) -> dict[str, float]:
    """TP, FP, TN and FN, where yes is positive, and the numbers of `retrieval`.

    pairs: what was read, and the truth; each "Yes" or "No". What could not be read counts nowhere.
    """
    tp, fp = pairs.count(("Yes", "Yes")), pairs.count(("Yes", "No"))
    fn, tn = pairs.count(("No", "Yes")), pairs.count(("No", "No"))
    return {"TP": tp, "FP": fp, "TN": tn, "FN": fn, **retrieval(tp, fp, fn)}


def retrieval(tp: int, fp: int, fn: int) -> dict[str, float]:
    """precision, recall and f1; 0 where there is nothing to divide by."""
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    both = precision + recall
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / both if both else 0.0,
    }
