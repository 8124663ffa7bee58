"""TempCompass: time in short videos, asked in four ways. arXiv 2403.00476,
github.com/llyx97/TempCompass (eval_*.py, utils/eval_utils.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import (
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
from owl_jax.evaluation.data_files import check_texts, checked, checked_list, read_json
from owl_jax.evaluation.official_prompts import find_prompt
from owl_jax.evaluation.scorers import right_or_wrong

_KINDS = ("multi-choice", "yes_no", "caption_matching", "captioning")
_ASPECTS = ("action", "direction", "speed", "order", "attribute_change")
_FINE_ASPECTS = (
    *("fine-grained action", "coarse-grained action", "object motion", "camera motion"),
    *("absolute speed", "relative speed", "order", "color & light change"),
    *("size & shape change", "combined change", "other change"),
)
_INSTRUCTIONS = {
    "multi-choice": "\nPlease directly give the best option:",
    "yes_no": "\nPlease answer yes or no:",
    "caption_matching": "\nPlease directly give the best option:",
    "captioning": "",  # its questions end with "Generated Caption:"
}
_ATTEMPTS = 10  # at a judge that says neither "Correct" nor "Incorrect"

_JUDGE_SYSTEM = "You are an AI assistant for question answering."
_SCRIPT = "prompt_templates.py"
_MARKERS = {
    "multi-choice": "receive a multi-choice question",
    "yes_no": "receive a Yes/No question",
    "caption_matching": "receive a caption matching question",
    "captioning": "receive a video description",
}
_NAMES = {
    "multi-choice": "Multi-Choice Question",
    "yes_no": "Yes/No Question",
    "caption_matching": "Caption Matching Question",
}
# Our own words.
_CAPTIONING = (
    "You get a description of a video and a question with options. Choose the option that the "
    'description supports. If it supports none, the answer is "None of the choices are correct". '
    "Reply in two lines:\nReasoning: one sentence\nAnswer: the letter and the text of the option"
)

Rule = Callable[[str, str, str], bool | None]


class TempCompass(Benchmark):
    """Rules read an answer. Where they cannot, a judge says whether it is right; captions always
    go to the judge, who answers a question about the video from the caption alone."""

    name = "tempcompass"
    kind = "judged"
    headline = "mean accuracy of the four kinds of questions, per cent"
    max_new_tokens = 128
    media = frozenset({"video"})

    def read(self, data: Path) -> list[Item]:
        """meta_info.json and questions/*.json; videos in videos/*.mp4.

        The judge's official prompts are used if prompt_templates.py is there.
        """
        meta = checked(read_json(data / "meta_info.json"), (), str(data / "meta_info.json"))
        choices = _questions(data, "multi-choice")
        items = []
        for kind in _KINDS:
            official = find_prompt(data, _SCRIPT, _MARKERS[kind])
            for video, aspect, place, record in _flat(_questions(data, kind)):
                where = f"{data / 'questions' / kind}.json: {video}/{aspect}/{place}"
                has_answer = kind != "captioning"
                texts = ("question", *("answer",) * has_answer)
                record = checked(record, texts, where)
                check_texts(record, texts, where)
                fields = {
                    "kind": kind,
                    "aspect": aspect,
                    "fine_aspect": _fine_aspect(meta, video, aspect, where),
                    "answer": record.get("answer", ""),
                    "judge_prompt": official or _own_prompt(kind),
                    "judge_prompt_of": "own" if official is None else "official",
                }
                if kind == "captioning":
                    fields["choice"] = _choice(choices, video, aspect, where)
                items.append(
                    Item(
                        id=f"{kind}/{video}/{aspect}/{place}",
                        question=record["question"],
                        media=(Medium("video", data / "videos" / f"{video}.mp4"),),
                        truth=record["answer"] if has_answer else "",
                        category=kind,
                        group=video,
                        fields=fields,
                    )
                )
        return items

    def question(self, item: Item) -> Question:
        return Question((*item.media, item.question + _INSTRUCTIONS[item.category]))

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        """Without a judge, what the rules do not read is wrong, and captions are left out."""
        cleaned = {item.id: _clean(item, answers[item.id]) for item in items}
        rules = {
            item.id: RULES[item.category](cleaned[item.id], item.question, item.fields["answer"])
            for item in items
        }
        unread = [item for item in items if rules[item.id] is None]
        replies = {} if ask is None else _ask_judge(unread, cleaned, ask)
        return [_verdict(item, rules[item.id], replies, ask is not None) for item in items]

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for kind, members in by_category(judged).items():
            tables = {}
            if kind != "captioning":
                tables["rules_only"] = _tables(members, lambda one: float(one.details["by_rules"]))
            if any(one.verdict.details["with_judge"] for one in members):
                tables["with_judge"] = _tables(members, lambda one: one.score or 0.0)
            if tables:
                found[kind] = tables
        return found

    def headline_value(self, judged: Sequence[Judged]) -> float:
        kinds = by_category(one for one in judged if not one.verdict.details.get("left_out"))
        return 100 * mean(
            mean(one.verdict.score or 0.0 for one in members) for members in kinds.values()
        )

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """lmms-eval counts a judge's empty reply to a caption as 0, not as -1."""
        if not any(one.verdict.details["with_judge"] for one in judged):
            return {}
        return {
            "lmms_eval_with_judge": {
                kind: 100 * mean(one.verdict.score == 1 for one in members)
                for kind, members in by_category(judged).items()
            },
            "judge_prompt": sorted({one.item.fields["judge_prompt_of"] for one in judged}),
        }


def _questions(data: Path, kind: str) -> Mapping[str, Any]:
    path = data / "questions" / f"{kind}.json"
    return checked(read_json(path), (), str(path))


def _flat(questions: Mapping[str, Any]) -> Iterable[tuple[str, str, int, Any]]:
    """Video, aspect, position and record of each question."""
    for video, aspects in questions.items():
        where = f"questions of {video}"
        by_aspect = checked(aspects, (), where)
        for aspect in by_aspect:
            for place, record in enumerate(checked_list(by_aspect, aspect, where)):
                yield video, aspect, place, record


def _fine_aspect(meta: Mapping[str, Any], video: str, aspect: str, where: str) -> str:
    if aspect not in _ASPECTS:
        raise UserError(f"{where}: unknown aspect; expected one of {', '.join(_ASPECTS)}")
    if aspect == "order":
        return aspect
    try:
        return str(meta[video]["eval_dim"][aspect]["type"])
    except (KeyError, TypeError):
        raise UserError(
            f"{where}: meta_info.json has no type for this aspect; expected the file of the same "
            "release"
        ) from None


def _choice(choices: Mapping[str, Any], video: str, aspect: str, where: str) -> tuple[str, str]:
    """The question and the answer by which a caption is judged."""
    try:
        record = choices[video][aspect][0]
        return record["question"], record["answer"]
    except (LookupError, TypeError):
        raise UserError(
            f"{where}: multi-choice.json has no question about this video and aspect; captions are "
            "judged by it"
        ) from None


def _own_prompt(kind: str) -> str:
    return _CAPTIONING if kind == "captioning" else right_or_wrong.PROMPT


def _clean(item: Item, answer: str) -> str:
    text = answer.replace("</s>", "")
    return text if item.category == "captioning" else text.strip()


def _by_option(answer: str, question: str, truth: str) -> bool | None:
    del question
    if answer == truth:
        return True
    if answer in ("A", "B", "C", "D") or (answer[:1] in "ABCD" and answer[1:2] in (".", ")")):
        return answer[0] == truth[:1]
    return None


def _by_yes_or_no(answer: str, question: str, truth: str) -> bool | None:
    del question
    for word in ("yes", "no"):
        if answer.lower().startswith(word):
            return word == truth
    return None


def _by_caption(answer: str, question: str, truth: str) -> bool | None:
    """The options are lines such as "Caption A: text"; their marks may be A, B, 1 or 2."""
    options = [line for line in question.split("\n")[1:] if ": " in line]
    marks = [line.split(": ")[0] for line in options]
    texts = [line.split(": ")[1] for line in options]
    marks += [mark.split(" ")[-1] for mark in marks]
    bare = answer.replace(".", "")
    read = next((mark for mark in reversed(marks) if mark in (answer, bare)), None)
    if read is None:
        after = answer.split(") ")[1] if ") " in answer else None
        read = next((text for text in reversed(texts) if text in (answer, after)), None)
    if read is None:
        read = next((line for line in options if line == answer), None)
    if read is None:
        return None
    mark, *texts = truth.split(": ")
    return read in (truth, mark, *texts[:1], mark.split(" ")[-1])


def _never(answer: str, question: str, truth: str) -> bool | None:
    del answer, question, truth
    return None


# A rule says whether an answer is right; None if it cannot read it.
RULES: dict[str, Rule] = {
    "multi-choice": _by_option,
    "yes_no": _by_yes_or_no,
    "caption_matching": _by_caption,
    "captioning": _never,
}


def _ask_judge(
    items: Sequence[Item], answers: Mapping[str, str], ask: Ask
) -> dict[str, str | None]:
    """The replies by id; None: the judge failed. A malformed one is asked for again."""
    replies: dict[str, str | None] = {}
    waiting = list(items)
    for attempt in range(_ATTEMPTS):
        calls = [
            JudgeCall(
                item.id, _prompt(item, answers[item.id]), attempt=attempt, system=_JUDGE_SYSTEM
            )
            for item in waiting
        ]
        replies |= {
            item.id: reply for item, reply in zip(waiting, ask(calls) if calls else [], strict=True)
        }
        waiting = [item for item in waiting if _is_malformed(item, replies[item.id])]
    return replies


def _is_malformed(item: Item, reply: str | None) -> bool:
    if reply is None or item.category == "captioning":
        return False
    return right_or_wrong.is_correct(reply) is None


def _prompt(item: Item, answer: str) -> str:
    given = item.fields["judge_prompt"]
    if item.category == "captioning":
        question, _ = item.fields["choice"]
        return f"{given}\nVideo Description:{answer}\nMulti-Choice Question:\n{question}\nAnswer:"
    return (
        f"{given}\n{_NAMES[item.category]}:\n{item.question}\n"
        f"Ground-Truth Answer: {item.fields['answer']}\nModel Prediction: {answer}"
    )


def _verdict(
    item: Item, by_rule: bool | None, replies: Mapping[str, str | None], with_judge: bool
) -> Verdict:
    details: dict[str, Any] = {"by_rules": bool(by_rule), "matched": by_rule is not None}
    details["with_judge"] = with_judge
    if by_rule is not None:
        return Verdict("right" if by_rule else "wrong", float(by_rule), details)
    if not with_judge:
        details["left_out"] = item.category == "captioning"
        return Verdict(None, 0.0, details)
    reply = replies[item.id]
    details["reply"] = reply
    if reply is None:
        return Verdict(None, None, details)
    if item.category == "captioning":
        read, score = _read_caption_reply(reply.strip(), item.fields["choice"][1])
        return Verdict(read, score, details)
    is_right = right_or_wrong.is_correct(reply)
    parsed = None if is_right is None else "right" if is_right else "wrong"
    return Verdict(parsed, float(bool(is_right)), details)


def _read_caption_reply(reply: str, truth: str) -> tuple[str | None, float]:
    """The judge's answer and its score. An empty reply scores -1: officially, averages can fall
    below 0."""
    if not reply:
        return None, -1.0
    lines = [line.strip() for line in reply.split("\n") if "Answer" in line]
    read = lines[-1].replace("Answer:", "").strip() if lines else reply
    letters = sum(read.count(f"{letter}.") for letter in "ABCD")
    return read, float(read.split(". ")[0] == truth.split(". ")[0] and letters == 1)


def _tables(judged: Sequence[Judged], value: Callable[[Verdict], float]) -> dict[str, Any]:
    """Per cent with one decimal. Aspects without questions, by which the official code would divide
    by zero, are left out."""

    def per_cent(key: str, name: str) -> float | None:
        values = [value(one.verdict) for one in judged if one.item.fields[key] == name]
        return round(100 * mean(values), 1) if values else None

    aspects = {name: per_cent("aspect", name) for name in _ASPECTS}
    fine = {name: per_cent("fine_aspect", name) for name in _FINE_ASPECTS}
    aspects["avg"] = round(100 * mean(value(one.verdict) for one in judged), 1)
    return {
        "aspects": {name: number for name, number in aspects.items() if number is not None},
        "fine_grained": {name: number for name, number in fine.items() if number is not None},
        "match_success_rate": round(
            100 * mean(float(one.verdict.details["matched"]) for one in judged), 1
        ),
    }
