"""MMHal-Bench: hallucinations in long answers. arXiv 2309.14525, github.com/llava-rlhf/LLaVA-RLHF
(Eval/eval_gpt_mmhal.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import (
    Ask,
    Benchmark,
    Item,
    JudgeCall,
    Judged,
    Medium,
    Verdict,
    by_category,
    mean,
)
from owl_jax.evaluation.data_files import check_texts, find, list_of_texts, read_json_records
from owl_jax.evaluation.official_prompts import find_prompt

_TYPES = (
    *("attribute", "adversarial", "comparison", "counting"),
    *("relation", "environment", "holistic", "other"),
)
_QUESTIONS = 96
_BEST = 6
_HALLUCINATED_BELOW = 3

_SCRIPT = "eval_gpt_mmhal.py"
_MARKER = "### LMM Response to Evaluate\n{}"
# Our own words for the official scale.
_OWN_PROMPT = """You grade the answer of a model that looked at a picture. You cannot see the \
picture. You know what is in it, the question, and a correct answer that a person gave. The \
correct answer may leave things out.

Two things count. Does the answer inform? Does it claim anything that the picture, as you know it, \
contradicts or does not show? That is a hallucination. An answer that is unsure, incomplete, or \
adds general knowledge is not.

First explain in one or two sentences. Then end with one of these lines:
Rating: 6, very informative with good analysis, no hallucination
Rating: 5, very informative, no hallucination
Rating: 4, somewhat informative, no hallucination
Rating: 3, not informative, no hallucination
Rating: 2, very informative, with hallucination
Rating: 1, somewhat informative, with hallucination
Rating: 0, not informative, with hallucination

In the picture: {}

Question: {}

Correct answer: {}

Answer to grade: {}
"""


class MmHal(Benchmark):
    """A judge rates each answer from 0 to 6; below 3 it is a hallucination.

    A reply with no rating, or with two different ones, counts as 0 and as a hallucination.
    """

    name = "mmhal"
    kind = "judged"
    headline = "average score, 0 to 6"
    max_new_tokens = 512
    needs_judge = True

    def read(self, data: Path) -> list[Item]:
        """response_template.json; pictures in images/, each named as at the end of its address.

        The judge's official prompt is used if eval_gpt_mmhal.py is there.
        """
        path = find(data, "response_template.json")
        folder = path.parent
        keys = ("image_content", "image_src", "question", "gt_answer")
        records = read_json_records(path, keys)
        if len(records) != _QUESTIONS:
            raise UserError(f"{path} has {len(records)} entries; expected the {_QUESTIONS}")
        for number, record in enumerate(records, 1):
            where = f"{path}: entry {number}"
            check_texts(record, ("image_src", "question", "gt_answer"), where)
            list_of_texts(record, "image_content", where)
        official = find_prompt(folder, _SCRIPT, _MARKER)
        return [
            Item(
                id=str(place),
                question=record["question"],
                media=(Medium("image", folder / "images" / _file_name(record["image_src"])),),
                truth=record["gt_answer"],
                category=_TYPES[place % len(_TYPES)],
                group=record["image_src"],
                fields={
                    "content": ", ".join(record["image_content"]),
                    "prompt": official or _OWN_PROMPT,
                    "judge_prompt": "own" if official is None else "official",
                },
            )
            for place, record in enumerate(records)
        ]

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        if ask is None:
            return [Verdict(None, None) for _ in items]
        calls = [
            JudgeCall(
                item.id,
                item.fields["prompt"].format(
                    item.fields["content"], item.question, item.truth, answers[item.id]
                ),
            )
            for item in items
        ]
        return [_verdict(reply) for reply in ask(calls)]

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        average = self.headline_value(judged)
        rate = mean(float(_score(one) < _HALLUCINATED_BELOW) for one in judged)
        return {
            "average_score": average,
            "hallucination_rate": rate,
            "printed": {"average_score": round(average, 2), "hallucination_rate": round(rate, 2)},
            "by_question_type": {
                name: round(mean(map(_score, members)), 2)
                for name, members in by_category(judged).items()
            },
        }

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return mean(map(_score, judged))

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        return {"judge_prompt": sorted({one.item.fields["judge_prompt"] for one in judged})}


def _score(one: Judged) -> float:
    return one.verdict.score or 0.0


def _verdict(reply: str | None) -> Verdict:
    if reply is None:
        return Verdict(None, None)
    ratings = [rating for rating in range(_BEST + 1) if f"rating: {rating}" in reply.lower()]
    details = {"reply": reply}
    if len(ratings) != 1:
        return Verdict(None, 0.0, details)
    return Verdict(str(ratings[0]), float(ratings[0]), details)


def _file_name(address: str) -> str:
    return PurePosixPath(urlsplit(address).path).name
