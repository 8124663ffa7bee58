"""MMBench: choices, asked once for each rotation of them. arXiv 2307.06281; scored by
github.com/open-compass/VLMEvalKit (multiple_choice.py), which is MMBench's official code."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
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
    by_group,
    is_right,
    mean,
)
from owl_jax.evaluation.data_files import find, read_table, table_pictures
from owl_jax.evaluation.official_prompts import find_prompt
from owl_jax.evaluation.scorers import choice
from owl_jax.evaluation.scorers.lmms_eval_letters import likeliest_letter

_COLUMNS = ("index", "question", "hint", "A", "B", "answer", "category", "image")
_TURN = 1_000_000  # added to the index for each rotation of the options
_ABBREVIATIONS = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}
_ATTEMPTS = 3  # of the judge, until its reply can be read

# Forms of a letter as a word in lmms-eval, the first that exactly one letter has.
_LMMS_EVAL_FORMS = (
    *("{}.", "{},", "{}:", "{})", "{}).", "({})", "({})."),
    *(":{}", ":{},", ":{}.", ":{})", ":{})."),
)

# The official prompt is in this script, which may be put beside the table.
_SCRIPT, _MARKER = "multiple_choice.py", "in A, B, C, D (if they are valid options), and Z"
# Our own words, without the script.
_PROMPT = (
    "A model answered a question that has several options. Find the option that means the same as "
    "its answer. Reply with one letter: that of the option, or Z if the answer means none of them."
    "\nQuestion: {}\n{}Answer: {}\nLetter: "
)


class MmBench(Benchmark):
    """CircularEval: a question counts if it is answered right in every rotation of its options.

    Answers are read by VLMEvalKit's rules; a judge matches the others, where one is given. It is
    not asked about a question of which a rotation is already wrong.
    """

    name = "mmbench"
    kind = "choice"
    modes = ("generate", "letter", "rank")
    headline = "CircularEval accuracy"

    def read(self, data: Path) -> list[Item]:
        """A table of tabs such as mmbench_dev_20230712.tsv; each row has its picture, or the index
        of the row that has it."""
        path = find(data, "mmbench_dev*.tsv", "MMBench_DEV*.tsv", "MMBench*.tsv", "*.tsv")
        rows = read_table(path, _COLUMNS)
        pictures = table_pictures(rows, path)
        official = find_prompt(path.parent, _SCRIPT, _MARKER)
        prompt = official or _PROMPT
        if prompt.count("{}") != _PROMPT.count("{}"):
            raise UserError(f"{path.parent / _SCRIPT}: expected three {{}} in {shown(prompt)}")
        judging = {
            "judge_prompt": prompt,
            "judge_prompt_of": "official" if official else "own",
        }
        return [
            _item(row, picture, judging, f"{path}: index {row['index']}")
            for row, picture in zip(rows, pictures, strict=True)
        ]

    def question(self, item: Item) -> Question:
        hint = f"Hint: {item.fields['hint']}\n" if item.fields["hint"] else ""
        options = "".join(
            f"{letter}. {text}\n" for letter, text in choice.lettered(item.choices).items()
        )
        text = (
            f"{hint}Question: {item.question}\nOptions:\n{options}"
            "Please select the correct answer from the options above. \n"
        )
        return Question((*item.media, text))

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        read = {
            item.id: choice.vlmevalkit(answers[item.id].strip(), choice.lettered(item.choices))
            for item in items
        }
        matched = _ask_judge(items, answers, read, ask) if ask else _Matched()
        verdicts = []
        for item in items:
            letter = read[item.id] or matched.letters.get(item.id)
            failed = item.group in matched.failed
            verdicts.append(
                Verdict(
                    letter,
                    None if failed else float(letter == item.truth),
                    {"read": read[item.id], "judge": ask is not None},
                )
            )
        return verdicts

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        read = {one.item.id: one.verdict.details["read"] == one.item.truth for one in judged}
        first = [one for one in judged if one.item.id == one.item.group]
        scores = {
            "exact_matching": {
                **_circular(judged, read),
                "vanilla_first_turn": _table(first, read),
                "vanilla_all_turns": _table(judged, read),
            }
        }
        if any(one.verdict.details["judge"] for one in judged):
            right = {one.item.id: is_right(one) for one in judged}
            scores["with_judge"] = _circular(judged, right)
        return scores

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return mean(all(map(is_right, turns)) for turns in by_group(judged).values())

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """lmms_eval_static: older rules for letters, and for the rest lmms-eval's own ranking.
        judge_prompt: whose words the judge gets."""
        hit = {
            group: all(_lmms_eval(one) == one.item.truth for one in turns)
            for group, turns in by_group(judged).items()
        }
        first = [one.item for one in judged if one.item.id == one.item.group]
        return {
            "lmms_eval_static": {
                "overall": mean(hit.values()),
                "category": _means(first, hit, "category"),
                "l2-category": _means(first, hit, "l2-category"),
            },
            "judge_prompt": sorted({one.item.fields["judge_prompt_of"] for one in judged}),
        }


@dataclass
class _Matched:
    """letters: of the items that the judge could match. failed: groups for which it failed."""

    letters: dict[str, str] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)


def _item(
    row: Mapping[str, Any], picture: bytes | None, judging: Mapping[str, str], where: str
) -> Item:
    options = [row.get(letter, "") for letter in LETTERS[:5]]
    options = ["" if text == "nan" else text for text in options]
    while options and not options[-1]:
        options.pop()
    if not row["index"].isdigit():
        raise UserError(f"{where}: expected a whole number")
    if row["answer"] not in LETTERS[: len(options)] or len(row["answer"]) != 1:
        raise UserError(f"{where} has the answer {shown(row['answer'])}; expected an option")
    hint = row.get("hint", "")
    return Item(
        id=row["index"],
        question=row["question"],
        media=(Medium("image", picture),) if picture else (),
        choices=tuple(options),
        truth=row["answer"],
        category=row["category"],
        group=str(int(row["index"]) % _TURN),
        fields={
            "hint": "" if hint == "nan" else hint,
            "category": row["category"],
            "l2-category": row.get("l2-category", ""),
            "split": row.get("split", "none"),
            **judging,
        },
    )


def _ask_judge(
    items: Sequence[Item],
    answers: Mapping[str, str],
    read: Mapping[str, str | None],
    ask: Ask,
) -> _Matched:
    """Goes through the rotations of each open question in order, and stops at the first that is
    wrong; the questions go side by side."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    matched = _Matched()
    steps = {
        group: _judge_turns(turns, answers, read, matched)
        for group, turns in groups.items()
        if all(read[item.id] in (None, item.truth) for item in turns)
    }
    calls = {group: call for group, step in steps.items() if (call := next(step, None))}
    while calls:
        replies = dict(zip(calls, ask(list(calls.values())), strict=True))
        calls = {}
        for group, reply in replies.items():
            try:
                calls[group] = steps[group].send(reply)
            except StopIteration:
                continue
    return matched


def _judge_turns(
    turns: Sequence[Item],
    answers: Mapping[str, str],
    read: Mapping[str, str | None],
    matched: _Matched,
) -> Generator[JudgeCall, str | None, None]:
    """Yields calls, gets their replies, and notes what they match."""
    for item in turns:
        if read[item.id]:
            continue
        choices = choice.lettered(item.choices)
        options = "There are several options: \n" + "".join(
            f"{letter}. {text}\n" for letter, text in choices.items()
        )
        prompt = item.fields["judge_prompt"].format(
            item.question, options, answers[item.id].strip()
        )
        letter = None
        for attempt in range(_ATTEMPTS):
            reply = yield JudgeCall(item.id, prompt, attempt=attempt)
            if reply is None:
                matched.failed.add(item.group)
                return
            if letter := choice.vlmevalkit(reply, choices):
                matched.letters[item.id] = letter
                break
        # Where three replies cannot be read, VLMEvalKit takes a letter at random: here it is wrong.
        if letter != item.truth:
            return


def _circular(judged: Sequence[Judged], right: Mapping[str, bool]) -> dict[str, Any]:
    hit = {
        group: all(right[one.item.id] for one in turns) for group, turns in by_group(judged).items()
    }
    first = [one for one in judged if one.item.id == one.item.group]
    return {
        "circular": _table(first, hit),
        "hit": {group: int(whole) for group, whole in hit.items()},
    }


def _table(judged: Sequence[Judged], right: Mapping[str, bool]) -> dict[str, dict[str, float]]:
    """The share of what is right, of each split: over all, by large and by small category."""
    splits: dict[str, list[Item]] = {}
    for one in judged:
        splits.setdefault(one.item.fields["split"], []).append(one.item)
    return {
        split: {
            "Overall": mean(right[item.id] for item in items),
            **{
                _ABBREVIATIONS.get(name, name): share
                for kind in ("l2-category", "category")
                for name, share in _means(items, right, kind).items()
            },
        }
        for split, items in splits.items()
    }


def _means(items: Sequence[Item], right: Mapping[str, bool], kind: str) -> dict[str, float]:
    names = sorted({item.fields[kind] for item in items} - {""})
    return {
        name: mean(right[item.id] for item in items if item.fields[kind] == name) for name in names
    }


def _lmms_eval(one: Judged) -> str:
    choices = choice.lettered(one.item.choices)
    return lmms_eval_static(one.answer, choices) or likeliest_letter(one.answer, list(choices))


def lmms_eval_static(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter that lmms-eval reads before its own ranking: one of five letters as a word, or the
    text of one choice."""
    words = answer.split()
    letters = LETTERS[:5]
    found = [letter for letter in letters if letter in words]
    # "A" in an answer of more words may be an article.
    if len(found) == 1 and not ("A" in words and len(words) > 3):
        return found[0]
    for form in _LMMS_EVAL_FORMS:
        found = [letter for letter in letters if form.format(letter) in words]
        if len(found) == 1:
            return found[0]
    return choice.only_text(answer, choices)
