"""SEED-Bench: choices about pictures and videos. arXiv 2307.16125,
github.com/AILab-CVC/SEED-Bench (eval.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import (
    LETTERS,
    Ask,
    Benchmark,
    Item,
    Judged,
    Medium,
    Question,
    Verdict,
    by_category,
    mean,
)
from owl_jax.evaluation.data_files import checked, find, read_json
from owl_jax.evaluation.parsers import choice

_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")
_KEYS = ("question_id", "question", *_CHOICES, "answer", "data_id", "data_type", "question_type_id")
_FRAMES = 12  # the question type whose segments are in frames, of videos with
_FRAME_RATE = 15  # frames a second (Breakfast)


class SeedBench(Benchmark):
    """19,242 questions of 12 types: 1 to 9 about a picture, 10 to 12 about a video.

    Officially a model's choice is the text with the least loss after "Question: ... Answer:", without
    the options in the question (--mode=rank). A generated answer counts if it is exactly the letter,
    which is LLaVA's rule; ask for it with --template=llava, which shows the options.
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
        names = {number: name for name, number in whole["question_type"].items()}
        return [
            _item(
                checked(record, _KEYS, f"{path}: question {number}"), names, path.parent, str(path)
            )
            for number, record in enumerate(whole["questions"])
        ]

    def question(self, item: Item) -> Question:
        return Question((*item.media, f"Question: {item.question}\nAnswer:"))

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        del ask
        verdicts = []
        for item in items:
            letter = answers[item.id] if answers[item.id] in tuple(LETTERS[:4]) else None
            verdicts.append(Verdict(letter, float(letter == item.truth)))
        return verdicts

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """official_choice_ranking where all answers are letters; text was generated otherwise, and
        only LLaVA's number is one (variants)."""
        if any(one.answer and one.verdict.parsed is None for one in judged):
            return {}
        types: dict[int, list[Judged]] = {}
        for one in judged:
            types.setdefault(one.item.fields["type"], []).append(one)
        return {
            "official_choice_ranking": {
                "type": {str(number): _percent(types[number], _exact) for number in sorted(types)},
                "total": _percent(judged, _exact),
            }
        }

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return mean(one.verdict.score or 0.0 for one in judged)

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """llava_exact_text: the answer is exactly the letter. lmms_eval: its first character is, in
        any case. vlmevalkit_exact_matching: VLMEvalKit's rules for choices."""
        kinds = {
            kind: [one for one in judged if one.item.fields["data_type"] == kind]
            for kind in ("image", "video")
        }
        types: dict[int, list[Judged]] = {}
        for one in judged:
            types.setdefault(one.item.fields["type"], []).append(one)
        return {
            "llava_exact_text": {
                **{
                    name: _percent(members, _exact) for name, members in by_category(judged).items()
                },
                "Total": _percent(judged, _exact),
                **{kind: _percent(members, _exact) for kind, members in kinds.items()},
            },
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


def _item(record: Mapping[str, Any], names: Mapping[int, str], folder: Path, where: str) -> Item:
    number, kind, id = record["question_type_id"], record["data_type"], str(record["question_id"])
    if kind not in ("image", "video") or number not in names:
        raise UserError(
            f"{where}: question {id} has the type {shown(number)} and data_type {shown(kind)}; "
            "expected a number of question_type, and image or video"
        )
    start, end = record.get("segment") or (None, None)
    if number == _FRAMES and start is not None:
        start, end = start / _FRAME_RATE, end / _FRAME_RATE
    return Item(
        id=id,
        question=record["question"],
        media=(Medium(kind, folder / f"SEED-Bench-{kind}" / record["data_id"], start, end),),
        choices=tuple(str(record[key]) for key in _CHOICES),
        truth=record["answer"],
        category=names[number],
        group=record["data_id"],
        fields={"type": number, "data_type": kind},
    )


def _exact(one: Judged) -> bool:
    return one.verdict.parsed == one.item.truth


def _lmms_eval(one: Judged) -> bool:
    return first_character(one.answer).lower() == one.item.truth.lower()


def _vlmevalkit(one: Judged) -> bool:
    return choice.vlmevalkit(one.answer, choice.lettered(one.item.choices)) == one.item.truth


def _share(judged: Sequence[Judged], right: Callable[[Judged], bool]) -> float:
    return mean(map(right, judged))


def _percent(judged: Sequence[Judged], right: Callable[[Judged], bool]) -> float:
    return round(100 * _share(judged, right), 2)
