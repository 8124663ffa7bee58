"""POPE: is an object in the picture? arXiv 2305.10355, github.com/RUCAIBox/POPE (evaluate.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import (
    Item,
    Judged,
    Medium,
    RuleBenchmark,
    by_category,
    mean,
)
from owl_jax.evaluation.data_files import check_texts, numbered_json_lines
from owl_jax.evaluation.scorers import yes_no

_CATEGORIES = ("random", "popular", "adversarial")
_MEANS = ("acc", "precision", "recall", "f1", "yes_ratio")
_LABELS = {"yes": "Yes", "no": "No"}


class Pope(RuleBenchmark):
    """Three files of yes/no questions: random, popular and adversarial objects.

    An answer means no if its first sentence has the word No, no or not, and yes otherwise.
    """

    name = "pope"
    kind = "yes_no"
    headline = "accuracy, mean of the three files"

    def read(self, data: Path) -> list[Item]:
        """*_pope_random.json, *_pope_popular.json, *_pope_adversarial.json; pictures in images/."""
        items = []
        for category in _CATEGORIES:
            for path in sorted(data.glob(f"*_pope_{category}.json")):
                keys = ("question_id", "image", "text", "label")
                for number, record in numbered_json_lines(path, keys):
                    where = f"{path}: line {number}"
                    check_texts(record, ("image", "text", "label"), where)
                    if record["label"] not in _LABELS:
                        raise UserError(
                            f"{where}: question {record['question_id']} has the label "
                            f"{shown(record['label'])}; expected yes or no"
                        )
                    items.append(_item(record, category, data / "images"))
        if not items:
            raise UserError(
                f"--data={data} has no file *_pope_random.json, *_pope_popular.json or "
                "*_pope_adversarial.json; expected the folder of POPE's files"
            )
        return items

    def parse(self, item: Item, answer: str) -> str | None:
        del item
        return _parse(answer)

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        return {name: _confusion(members) for name, members in by_category(judged).items()}

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return mean(
            mean(one.verdict.score or 0.0 for one in members)
            for members in by_category(judged).values()
        )

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """official_mean_of_three: what papers print. lmms_eval: the whole answer must be yes or no,
        and yes_ratio is that of the labels. vlmevalkit_exact_matching: exactly one of the words yes
        and no is in the answer; in per cent, and Overall is F1."""
        files = {name: _confusion(members) for name, members in by_category(judged).items()}
        return {
            "official_mean_of_three": {
                name: mean(scores[name] for scores in files.values()) for name in _MEANS
            },
            "lmms_eval": {
                **{name: _lmms_eval(members) for name, members in by_category(judged).items()},
                "all": _lmms_eval(judged),
            },
            "vlmevalkit_exact_matching": {
                "Overall": _vlmevalkit(judged),
                **{name: _vlmevalkit(members) for name, members in by_category(judged).items()},
            },
        }


def _item(record: Mapping[str, Any], category: str, images: Path) -> Item:
    return Item(
        id=f"{category}/{record['question_id']}",
        question=record["text"],
        media=(Medium("image", images / record["image"]),),
        truth=_LABELS[record["label"]],
        category=category,
        group=record["image"],
    )


def _parse(answer: str) -> str:
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "No" if {"No", "no", "not"} & set(words) else "Yes"


def _confusion(judged: Sequence[Judged]) -> dict[str, float]:
    counts = yes_no.confusion([(one.verdict.parsed, one.item.truth) for one in judged])
    return {
        **counts,
        "acc": (counts["TP"] + counts["TN"]) / len(judged),
        "yes_ratio": (counts["TP"] + counts["FP"]) / len(judged),
    }


def _lmms_eval(judged: Sequence[Judged]) -> dict[str, float]:
    pairs = [(one.answer.strip().lower(), one.item.truth.lower()) for one in judged]
    tp, fp = pairs.count(("yes", "yes")), pairs.count(("yes", "no"))
    scores = yes_no.retrieval(tp, fp, pairs.count(("no", "yes")))
    return {
        "accuracy": mean(answer == truth for answer, truth in pairs),
        "precision": scores["precision"],
        "recall": scores["recall"],
        "f1_score": scores["f1"],
        "yes_ratio": mean(truth == "yes" for _, truth in pairs),
    }


def _vlmevalkit(judged: Sequence[Judged]) -> dict[str, float]:
    pairs = [(yes_no.whole_word(one.answer), one.item.truth) for one in judged]
    tp, fp = pairs.count(("Yes", "Yes")), pairs.count(("Yes", "No"))
    scores = yes_no.retrieval(tp, fp, [truth for _, truth in pairs].count("Yes") - tp)
    return {
        "Overall": 100 * scores["f1"],
        "acc": 100 * mean(found == truth for found, truth in pairs),
        "precision": 100 * scores["precision"],
        "recall": 100 * scores["recall"],
    }
