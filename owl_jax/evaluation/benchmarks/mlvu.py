"""MLVU: long videos. arXiv 2406.04264, github.com/JUNJIE99/MLVU (evaluation/).

Two benchmarks: `mlvu` has the seven tasks with options (M-Avg), `mlvu_open` the two with free
answers, which a judge scores (G-Avg).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import (
    LETTERS,
    Ask,
    Benchmark,
    Item,
    JudgeCall,
    Judged,
    Medium,
    Question,
    Verdict,
    by_category,
    mean,
)
from owl_jax.evaluation.data_files import Record, check_texts, read_json_records
from owl_jax.evaluation.official_prompts import find_prompt
from owl_jax.evaluation.scorers.lmms_eval_letters import likeliest_letter

_SYSTEM = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, {}\n"
)
_CHOOSE = _SYSTEM.format("select the best option that accurately addresses the question.")
_ANSWER = _SYSTEM.format("answer the given questions.")
_INSTRUCTION = "\nOnly give the best option."
_ANSWER_START = "Best Option: ("

# In the order of the official table.
_CHOICE_TASKS = {
    "count": "4_count",
    "ego": "3_ego",
    "needle": "2_needle",
    "order": "5_order",
    "plotQA": "1_plotQA",
    "anomaly_reco": "6_anomaly_reco",
    "topic_reasoning": "7_topic_reasoning",
}
_OPEN_TASKS = {"sub_scene": "8_sub_scene", "summary": "9_summary"}

_SCRIPTS = {"sub_scene": "evaluate_ssc.py", "summary": "evaluate_summary.py"}
# Two scores of a reply, each from 1 to 5.
_SCORES = {
    "sub_scene": ("score_accuracy", "score_relevance"),
    "summary": ("score_completeness", "score_reliability"),
}
# Our own words for the official scales.
_OWN_PROMPTS = {
    "sub_scene": (
        "You grade an answer to a question about a scene of a video. You get the question, points "
        "that a good answer mentions, and the answer. Give two grades from 1 to 5.\n"
        "Accuracy: grade each point, 1 if the answer misses it, 3 if the answer has something of "
        "it but not quite, 5 if the answer has it right; accuracy is the mean over the points.\n"
        "Relevance, whether or not the answer is true: 1 for another subject; 2 for much that does "
        "not belong; 3 for an answer that seems unsure; 4 for an answer that mostly keeps to the "
        "question; 5 for one that keeps to it throughout and is certain.\n"
    ),
    "summary": (
        "You grade a summary of a video. You get a correct summary and the one to grade. Give two "
        "grades from 1 to 5.\n"
        "Completeness: 1 if hardly any of the main content is there, 3 if most of it is, 5 if all "
        "of it is.\n"
        "Reliability: 1 for many errors and contradictions, 3 for a few, 5 for none and a clear "
        "text. Details that the correct summary lacks are no errors if they do not contradict it.\n"
    ),
}
_REPLY_FORM = "Explain first. End with the grades: {{'{}': ..., '{}': ..., 'total_score': ...}}"


class Mlvu(Benchmark):
    """The character before the first bracket, or the whole answer, has to be the letter."""

    name = "mlvu"
    kind = "choice"
    modes = ("generate", "rank", "letter")
    headline = "M-Avg: mean accuracy of the tasks, per cent"
    max_new_tokens = 100
    media = frozenset({"video"})

    def read(self, data: Path) -> list[Item]:
        """json/1_plotQA.json to 7_topic_reasoning.json; videos in video/1_plotQA/ and so on."""
        items = []
        for task, record, id, medium, where in _records(data, _CHOICE_TASKS, ("candidates",)):
            choices = record["candidates"]
            if not isinstance(choices, list) or record["answer"] not in choices:
                raise UserError(
                    f"{where}: the answer {shown(record['answer'])} is none of the candidates "
                    f"{shown(choices)}"
                )
            items.append(
                Item(
                    id=id,
                    question=record["question"],
                    media=(medium,),
                    choices=tuple(map(str, choices)),
                    truth=LETTERS[choices.index(record["answer"])],
                    category=task,
                    group=record["video"],
                )
            )
        return items

    def question(self, item: Item) -> Question:
        options = "".join(
            f"({letter}) {choice}\n" for letter, choice in zip(LETTERS, item.choices, strict=False)
        )
        text = f"Question: {item.question}\nOptions:\n{options}".rstrip() + _INSTRUCTION
        return Question((_CHOOSE, *item.media, text), _ANSWER_START)

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        del ask
        verdicts = []
        for item in items:
            read = _read(answers[item.id])
            is_letter = read in LETTERS[: len(item.choices)] and len(read) == 1
            verdicts.append(Verdict(read if is_letter else None, float(read == item.truth)))
        return verdicts

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        tasks = {
            task: 100 * mean(one.verdict.score or 0.0 for one in members)
            for task, members in _in_order(judged, _CHOICE_TASKS).items()
        }
        return {**tasks, "Avg": mean(tasks.values())}

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return mean(
            100 * mean(one.verdict.score or 0.0 for one in members)
            for members in by_category(judged).values()
        )

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """lmms-eval reads a letter anywhere; the average over items is not official."""
        tasks = by_category(judged).values()
        return {
            "lmms_eval": {
                "average": mean(
                    100 * mean(_lmms_eval_letter(one) == one.item.truth for one in members)
                    for members in tasks
                )
            },
            "micro_average_for_comparison": 100 * mean(one.verdict.score or 0.0 for one in judged),
        }


class MlvuOpen(Benchmark):
    """A judge gives two scores from 1 to 5 an answer; their sum counts.

    A reply without both scores counts as 0, as in the official code.
    """

    name = "mlvu_open"
    kind = "judged"
    headline = "G-Avg: mean sum of two grades, 2 to 10"
    max_new_tokens = 512
    needs_judge = True
    media = frozenset({"video"})

    def read(self, data: Path) -> list[Item]:
        """json/8_sub_scene.json, json/9_summary.json; videos in video/8_sub_scene/ and so on.

        The judge's official prompts are used if evaluate_ssc.py and evaluate_summary.py are there.
        """
        items = []
        for task, record, id, medium, where in _records(data, _OPEN_TASKS, ()):
            if task == "sub_scene" and "scoring_points" not in record:
                raise UserError(f"{where}: found no scoring_points; expected MLVU's dev set")
            official = find_prompt(data, _SCRIPTS[task], _SCORES[task][0])
            items.append(
                Item(
                    id=id,
                    question=record["question"],
                    media=(medium,),
                    truth=record["answer"],
                    category=task,
                    group=record["video"],
                    fields={
                        "points": record.get("scoring_points"),
                        "judge_prompt": "own" if official is None else "official",
                        "system": official
                        or _OWN_PROMPTS[task] + _REPLY_FORM.format(*_SCORES[task]),
                    },
                )
            )
        return items

    def question(self, item: Item) -> Question:
        return Question((_ANSWER, *item.media, item.question))

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        if ask is None:
            return [Verdict(None, None) for _ in items]
        replies = ask([_call(item, answers[item.id]) for item in items])
        return [_open_verdict(item, reply) for item, reply in zip(items, replies, strict=True)]

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for task, members in _in_order(judged, _OPEN_TASKS).items():
            found[task] = {
                name.removeprefix("score_"): mean(one.verdict.details[name] for one in members)
                for name in _SCORES[task]
            }
            found[task]["total"] = sum(found[task].values())
        found["G-Avg"] = self.headline_value(judged)
        return found

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return mean(
            mean(one.verdict.score or 0.0 for one in members)
            for members in by_category(judged).values()
        )

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        return {"judge_prompt": sorted({one.item.fields["judge_prompt"] for one in judged})}


def _records(
    data: Path, tasks: Mapping[str, str], keys: tuple[str, ...]
) -> list[tuple[str, Record, str, Medium, str]]:
    """Task, record, id, video, and where the record is."""
    found = []
    for task, stem in tasks.items():
        path = data / "json" / f"{stem}.json"
        if path.is_file():
            records = read_json_records(path, ("video", "question", "answer", *keys))
            for place, record in enumerate(records):
                where = f"{path}: entry {place + 1}"
                check_texts(record, ("video", "question", "answer"), where)
                medium = Medium("video", data / "video" / stem / record["video"])
                found.append((task, record, f"{stem}/{place}", medium, where))
    if not found:
        names = " or ".join(f"json/{stem}.json" for stem in tasks.values())
        raise UserError(f"--data={data} has no {names}; expected the folder of MLVU's dev set")
    return found


def _in_order(judged: Sequence[Judged], tasks: Mapping[str, str]) -> dict[str, list[Judged]]:
    found = by_category(judged)
    return {task: found[task] for task in tasks if task in found}


def _read(answer: str) -> str:
    """The character before the first bracket, else the whole answer."""
    place = answer.find(")")
    return answer if place < 0 else answer[max(place - 1, 0) : place]


def _lmms_eval_letter(one: Judged) -> str:
    return likeliest_letter(one.answer, LETTERS[:4])


def _call(item: Item, answer: str) -> JudgeCall:
    if item.category == "sub_scene":
        given = f"Question: {item.question}\nScoring Points: {item.fields['points']}"
    else:
        given = f"Standard Answer: {item.truth}"
    task = (
        "Please score the respondent's answer according to the steps in the Instructions. You must "
        "end with a JSON dict to store the scores."
    )
    prompt = f"{task}\n{given}\nRespondent's Answer: {answer}"
    return JudgeCall(item.id, prompt, system=item.fields["system"])


def _open_verdict(item: Item, reply: str | None) -> Verdict:
    if reply is None:
        return Verdict(None, None)
    names = _SCORES[item.category]
    found = [re.search(rf"{name}\W*?:\s*(\d+(?:\.\d+)?)", reply) for name in names]
    values = [float(one[1]) if one else 0.0 for one in found]
    if not all(found):
        values = [0.0, 0.0]
    parsed = f"{values[0]:g}, {values[1]:g}" if all(found) else None
    details = dict(zip(names, values, strict=True))
    return Verdict(parsed, sum(values), {**details, "reply": reply})
