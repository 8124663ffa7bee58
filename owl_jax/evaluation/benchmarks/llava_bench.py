"""LLaVA-Bench (In-the-Wild): free answers beside GPT-4's. arXiv 2304.08485,
github.com/haotian-liu/LLaVA (llava/eval/eval_gpt_review_bench.py, summarize_gpt_review.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, shown
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
from owl_jax.evaluation.data_files import (
    Record,
    check_ids,
    check_texts,
    checked,
    numbered_json_lines,
    read_json,
)

_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
_UNREAD = (-1.0, -1.0)

Pair = tuple[float, float]


class LlavaBench(Benchmark):
    """A judge scores GPT-4's answer and the model's from 1 to 10, in its first line.

    A line that cannot be read counts as -1 and -1 in both means, as in the official code.
    """

    name = "llava_bench"
    kind = "judged"
    headline = "score relative to GPT-4, per cent"
    max_new_tokens = 512
    needs_judge = True

    def read(self, data: Path) -> list[Item]:
        """questions.jsonl, context.jsonl, answers_gpt4.jsonl, and rule.json from LLaVA's
        llava/eval/table/; pictures in images/."""
        questions = data / "questions.jsonl"
        contexts = _by(data / "context.jsonl", "image", "caption")
        references = _by(data / "answers_gpt4.jsonl", "question_id", "text")
        rules = checked(read_json(data / "rule.json"), (), str(data / "rule.json"))
        items = []
        keys = ("question_id", "image", "category", "text")
        for number, record in numbered_json_lines(questions, keys):
            check_ids(record, ("question_id",), f"{questions}: line {number}")
            check_texts(record, ("image", "category", "text"), f"{questions}: line {number}")
            id, image, name = record["question_id"], record["image"], _category(record)
            for found, key, where in (
                (contexts, image, "context.jsonl"),
                (references, id, "answers_gpt4.jsonl"),
                (rules, name, "rule.json"),
            ):
                if key not in found:
                    raise UserError(
                        f"{data / where} has nothing for {shown(key)} of question {shown(id)}; "
                        "expected the files of one release"
                    )
            rule = checked(rules[name], ("role", "prompt"), f"{data / 'rule.json'}: {name}")
            items.append(
                Item(
                    id=str(id),
                    question=record["text"],
                    media=(Medium("image", data / "images" / image),),
                    truth=references[id],
                    category=name,
                    group=image,
                    fields={"context": contexts[image], "rule": rule},
                )
            )
        return items

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        """The score of an item is the model's, 1 to 10."""
        if ask is None:
            return [Verdict(None, None) for _ in items]
        calls = [
            JudgeCall(item.id, _prompt(item, answers[item.id]), system=_SYSTEM) for item in items
        ]
        return [_verdict(reply) for reply in ask(calls)]

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        groups = {"all": list(judged), **dict(sorted(by_category(judged).items()))}
        found = {}
        for name, members in groups.items():
            reference, model = _means(members, _read_first_line)
            found[name] = {
                "relative": _relative(reference, model),
                "gpt4": round(reference * 10, 1),
                "model": round(model * 10, 1),
            }
        return found

    def headline_value(self, judged: Sequence[Judged]) -> float:
        reference = mean(one.verdict.details["reference"] for one in judged)
        return (
            100 * mean(one.verdict.score or 0.0 for one in judged) / reference if reference else 0.0
        )

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """lmms-eval takes any two numbers of the first line, such as those of "8/10"."""
        groups = {"all": list(judged), **by_category(judged)}
        return {
            "lmms_eval": {
                name.removeprefix("llava_bench_"): _relative(*_means(members, _any_two_numbers))
                for name, members in groups.items()
            }
        }


def _by(path: Path, key: str, value: str) -> dict[Any, str]:
    found = {}
    for number, record in numbered_json_lines(path, (key, value)):
        check_ids(record, (key,), f"{path}: line {number}")
        check_texts(record, (value,), f"{path}: line {number}")
        found[record[key]] = record[value]
    return found


def _category(record: Record) -> str:
    return f"llava_bench_{record['category']}"


def _prompt(item: Item, answer: str) -> str:
    role, rule = item.fields["rule"]["role"], item.fields["rule"]["prompt"]
    return (
        f"[Context]\n{item.fields['context']}\n\n[Question]\n{item.question}\n\n"
        f"[{role} 1]\n{item.truth}\n\n[End of {role} 1]\n\n"
        f"[{role} 2]\n{answer}\n\n[End of {role} 2]\n\n[System]\n{rule}\n\n"
    )


def _verdict(reply: str | None) -> Verdict:
    if reply is None:
        return Verdict(None, None)
    pair = _read_first_line(reply)
    parsed = None if pair == _UNREAD else f"{pair[0]:g} {pair[1]:g}"
    return Verdict(parsed, pair[1], {"reference": pair[0], "reply": reply})


def _read_first_line(reply: str) -> Pair:
    """The scores of the reference and of the model; both -1 unless the line is two numbers."""
    parts = reply.split("\n")[0].replace(",", " ").split(" ")
    try:
        reference, model = map(float, parts)
    except ValueError:
        return _UNREAD
    return reference, model


def _any_two_numbers(reply: str) -> Pair:
    line = reply.strip().split("\n")[0].replace(",", " ").replace(";", " ")
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", line)]
    return (numbers[0], numbers[1]) if len(numbers) > 1 else _UNREAD


def _means(judged: Sequence[Judged], read: Callable[[str], Pair]) -> Pair:
    """Means of the two scores, with three decimals as in the official code."""
    pairs = [read(one.verdict.details["reply"]) for one in judged]
    return round(mean(pair[0] for pair in pairs), 3), round(mean(pair[1] for pair in pairs), 3)


def _relative(reference: float, model: float) -> float:
    return round(model / reference * 100, 1) if reference else 0.0
