"""SEED-Bench: choices about pictures and videos. arXiv 2307.16125,
github.com/AILab-CVC/SEED-Bench (eval.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import (
    LETTERS,
    Item,
    Judged,
    Medium,
    Question,
    RuleBenchmark,
    by_category,
    grouped,
    is_right,
    mean,
)
from owl_jax.evaluation.data_files import check_ids, check_texts, checked, find, read_json
from owl_jax.evaluation.scorers import choice

_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")
_KEYS = ("question_id", "question", *_CHOICES, "answer", "data_id", "data_type", "question_type_id")
_FRAMES = 12  # the question type whose segments are in frames, of videos with
_FRAME_RATE = 15  # frames a second (Breakfast)
_WHOLE = (None, None)


class SeedBench(RuleBenchmark):
    """19,242 questions of 12 types: 1 to 9 about a picture, 10 to 12 about a video.

    Officially a model's choice is the text with the least loss after "Question: ... Answer:"; the
    question does not show the options (--mode=rank). A generated answer counts if it is exactly the
    letter, which is LLaVA's rule; ask for it with --template=llava, which shows the options.
    """

    name = "seedbench"
    kind = "choice"
    modes = ("rank", "generate", "letter")
    headline = "accuracy"
    media = frozenset({"image", "video"})

    def read(self, data: Path) -> list[Item]:
        """SEED-Bench.json; pictures in SEED-Bench-image/, videos in SEED-Bench-video/."""
        path = find(data, "SEED-Bench.json", "SEED-Bench*.json")
        whole = checked(read_json(path), ("questions", "question_type"), str(path))
        types = checked(whole["question_type"], (), f"{path}: question_type")
        check_ids(types, types, f"{path}: question_type")
        names = {number: name for name, number in types.items()}
        if not isinstance(whole["questions"], list):
            raise UserError(f"{path}: questions are no list")
        return [
            _item(record, names, path.parent, f"{path}: question {number}")
            for number, record in enumerate(whole["questions"], 1)
        ]

    def question(self, item: Item) -> Question:
        return Question((*item.media, f"Question: {item.question}\nAnswer:"))

    def parse(self, item: Item, answer: str) -> str | None:
        del item
        return answer if answer in tuple(LETTERS[:4]) else None

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """official_choice_ranking if all answers are letters, which ranking gives. Otherwise text
        was generated, and the scores are those of LLaVA."""
        if any(one.answer and one.verdict.parsed is None for one in judged):
            return {"llava_exact_text": _llava(judged)}
        types = _by_type(judged)
        return {
            "official_choice_ranking": {
                "type": {
                    str(number): _percent(types[number], is_right) for number in sorted(types)
                },
                "total": _percent(judged, is_right),
            }
        }

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """llava_exact_text: the answer is exactly the letter. lmms_eval: its first character is, in
        any case. vlmevalkit_exact_matching: VLMEvalKit's rules for choices."""
        kinds, types = _by_kind(judged), _by_type(judged)
        return {
            "llava_exact_text": _llava(judged),
            "lmms_eval": {
                "seed_all": _share(judged, _lmms_eval),
                "seed_image": _share(kinds["image"], _lmms_eval),
                "seed_video": _share(kinds["video"], _lmms_eval),
                "by_type_id": {
                    str(number): _share(types[number], _lmms_eval) for number in sorted(types)
                },
            },
            "vlmevalkit_exact_matching": {
                "Overall": _share(judged, _vlmevalkit),
                "image": _share(kinds["image"], _vlmevalkit),
            },
        }


def first_character(answer: str) -> str:
    """lmms-eval's parser."""
    return answer.strip()[:1]


def _item(value: Any, names: Mapping[int, str], folder: Path, where: str) -> Item:
    record = checked(value, _KEYS, where)
    check_texts(record, (*_CHOICES, "question", "answer", "data_id"), where)
    check_ids(record, ("question_type_id",), where)
    number, kind = record["question_type_id"], record["data_type"]
    if kind not in ("image", "video") or number not in names:
        raise UserError(
            f"{where} has the type {shown(number)} and data_type {shown(kind)}; "
            "expected a number of question_type, and image or video"
        )
    rate = _FRAME_RATE if number == _FRAMES else 1
    start, end = (place / rate for place in record["segment"]) if "segment" in record else _WHOLE
    return Item(
        id=str(record["question_id"]),
        question=record["question"],
        media=(Medium(kind, folder / f"SEED-Bench-{kind}" / record["data_id"], start, end),),
        choices=tuple(record[key] for key in _CHOICES),
        truth=record["answer"],
        category=names[number],
        group=record["data_id"],
        fields={"type": number, "data_type": kind},
    )


def _llava(judged: Sequence[Judged]) -> dict[str, float]:
    return {
        **{name: _percent(members, is_right) for name, members in by_category(judged).items()},
        "Total": _percent(judged, is_right),
        **{kind: _percent(members, is_right) for kind, members in _by_kind(judged).items()},
    }


def _by_type(judged: Sequence[Judged]) -> dict[int, list[Judged]]:
    return grouped(judged, lambda one: int(one.item.fields["type"]))


def _by_kind(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    return {
        kind: [one for one in judged if one.item.fields["data_type"] == kind]
        for kind in ("image", "video")
    }


def _lmms_eval(one: Judged) -> bool:
    return first_character(one.answer).lower() == one.item.truth.lower()


def _vlmevalkit(one: Judged) -> bool:
    return choice.vlmevalkit(one.answer, choice.lettered(one.item.choices)) == one.item.truth


def _share(judged: Sequence[Judged], right: Callable[[Judged], bool]) -> float:
    return mean(map(right, judged))


def _percent(judged: Sequence[Judged], right: Callable[[Judged], bool]) -> float:
    return round(100 * _share(judged, right), 2)
