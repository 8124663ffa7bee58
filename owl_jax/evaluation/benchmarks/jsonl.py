"""Questions of your own, with answers: JSON Lines or a CSV table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, listed, shown
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
from owl_jax.evaluation.data_files import (
    Record,
    checked,
    find_only,
    numbered_json_lines,
    read_table,
)
from owl_jax.evaluation.scorers import right_or_wrong, vqa

_KEYS = {"id", "question", "image", "images", "video", "choices", "answer", "score", "category"}
_NEEDED = ("question", "answer")
_SCORES = ("exact", "choice", "judged")
_LETTER = re.compile(r"\(?([A-Z])(?:[).:,\n].*)?", re.DOTALL)
_SAID = re.compile(r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?: is)?:? \(?([A-Z])\b")


class Jsonl(Benchmark):
    """One object a line, or one row of a table:

    question: the text.
    answer: a text, a list of texts of which one has to be given, or the letter or text of a choice.
    choices: texts of the options; the model is then asked for the letter.
    image, images: a file or a list of files, relative to the JSON Lines file.
    video: a file, or {"path", "start", "end"} with seconds.
    score: "exact" (texts are compared without case, articles and marks), "choice", or "judged" (a
      judge compares). By default "choice" if there are choices, else "exact".
    id, category: by default the number of the line, and none.

    A table has these keys as columns, each cell one text: no choices, and of a video the whole. An
    empty cell is left out.
    """

    name = "jsonl"
    kind = "short_answer"
    modes = ("generate", "rank", "letter")
    headline = "accuracy"
    max_new_tokens = 128
    media = frozenset({"image", "video"})

    def read(self, data: Path) -> list[Item]:
        """FILE.jsonl or FILE.csv, or a folder with one."""
        path = find_only(data, "*.jsonl", "*.csv")
        is_table = path.suffix.lower() == ".csv"
        records = _rows(path) if is_table else numbered_json_lines(path, _NEEDED)
        return [_item(record, number, path) for number, record in records]

    def question(self, item: Item) -> Question:
        options = [f"{letter}. {text}" for letter, text in zip(LETTERS, item.choices, strict=False)]
        instruction = ["Answer with the option's letter."] if options else []
        return Question((*item.media, "\n".join([item.question, *options, *instruction])))

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        judged = [item for item in items if item.fields["score"] == "judged"]
        calls = [_call(item, answers[item.id]) for item in judged]
        given = ask(calls) if ask is not None and calls else [None] * len(calls)
        replies = {item.id: reply for item, reply in zip(judged, given, strict=True)}
        verdicts = []
        for item in items:
            answer = answers[item.id]
            if item.fields["score"] == "judged":
                verdicts.append(_judged(replies[item.id]))
            elif item.fields["score"] == "choice":
                letter = read_choice(answer, item.choices)
                verdicts.append(Verdict(letter, float(letter == item.truth)))
            else:
                text = _plain(answer)
                right = text in map(_plain, item.fields["answers"])
                verdicts.append(Verdict(text or None, float(right)))
        return verdicts

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        found: dict[str, Any] = {"accuracy": self.headline_value(judged)}
        categories = by_category(judged)
        if set(categories) != {""}:
            found["by_category"] = {
                name: self.headline_value(members) for name, members in categories.items()
            }
        return found

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return mean(one.verdict.score or 0.0 for one in judged)


def read_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer chooses; None if that is not clear.

    The answer is a letter, begins with one as "B." or "(B)", says "the answer is B", is the text of
    an option, or has the text of just one option.
    """
    text, letters = answer.strip(), LETTERS[: len(choices)]
    plain = [_plain(choice) for choice in choices]
    if _plain(text) in plain:
        return letters[plain.index(_plain(text))]
    if found := _LETTER.fullmatch(text) or _SAID.search(text):
        return found[1] if found[1] in letters else None
    named = [
        letter
        for letter, choice in zip(letters, plain, strict=True)
        if choice and f" {choice} " in f" {_plain(text)} "
    ]
    return named[0] if len(named) == 1 else None


def _rows(path: Path) -> list[tuple[int, Record]]:
    """The rows of a table without their empty cells, and the number of each."""
    rows = []
    for number, row in enumerate(read_table(path, _NEEDED, ","), 2):
        filled = {column: cell for column, cell in row.items() if cell.strip()}
        rows.append((number, checked(filled, _NEEDED, f"{path}: line {number}", "cells")))
    return rows


def _item(record: Record, number: int, path: Path) -> Item:
    where = f"{path}: line {number}"
    if unknown := sorted(record.keys() - _KEYS):
        raise UserError(
            f"{where}: unknown keys {listed(unknown)}; expected some of {', '.join(sorted(_KEYS))}"
        )
    if not isinstance(record["question"], str):
        raise UserError(f"{where}: the question is {shown(record['question'])}; expected a text")
    choices = _texts(record.get("choices", []), f"{where}: choices")
    answers = _texts(record["answer"], f"{where}: answer")
    score = record.get("score", "choice" if choices else "exact")
    if score not in _SCORES:
        raise UserError(f"{where}: score is {shown(score)}; expected {' or '.join(_SCORES)}")
    if not answers:
        raise UserError(f"{where}: no answer; expected a text, a letter or a list of texts")
    truth = answers[0]
    if score == "choice":
        truth = _letter_of(answers, choices, where)
    return Item(
        id=str(record.get("id", number)),
        question=record["question"],
        media=_media(record, path.parent, where),
        choices=choices,
        truth=truth,
        category=str(record.get("category", "")),
        group=str(record.get("id", number)),
        fields={"score": score, "answers": answers},
    )


def _texts(value: Any, where: str) -> tuple[str, ...]:
    """One text or several as texts; numbers are allowed."""
    values = value if isinstance(value, list) else [value]
    for one in values:
        if not isinstance(one, str | int | float) or isinstance(one, bool):
            raise UserError(f"{where}: found {shown(one)}; expected a text or a list of texts")
    return tuple(map(str, values))


def _letter_of(answers: Sequence[str], choices: Sequence[str], where: str) -> str:
    if not 1 < len(choices) <= len(LETTERS):
        raise UserError(f"{where}: {len(choices)} choices; expected 2 to {len(LETTERS)}")
    [answer, *others] = answers
    letters = LETTERS[: len(choices)]
    if not others and answer in choices:
        return letters[choices.index(answer)]
    if not others and len(answer) == 1 and answer in letters:
        return answer
    raise UserError(
        f"{where}: the answer {shown(', '.join(answers))} is none of the choices; expected one of "
        f"their texts or a letter from A to {letters[-1]}"
    )


def _media(record: Record, folder: Path, where: str) -> tuple[Medium, ...]:
    if "image" in record and "images" in record:
        raise UserError(f"{where}: both image and images; expected one of them")
    names = _texts(record.get("images", record.get("image", [])), f"{where}: image")
    media = [Medium("image", folder / name) for name in names]
    if "video" in record:
        media.append(_video(record["video"], folder, f"{where}: video"))
    return tuple(media)


def _video(value: Any, folder: Path, where: str) -> Medium:
    if isinstance(value, str):
        return Medium("video", folder / value)
    if not isinstance(value, Mapping) or not isinstance(value.get("path"), str):
        raise UserError(f'{where}: found {shown(value)}; expected a file or {{"path", "start"}}')
    start, end = value.get("start"), value.get("end")
    for second in (start, end):
        if second is not None and (not isinstance(second, int | float) or second < 0):
            raise UserError(f"{where}: found {shown(second)}; expected seconds, or null")
    if start is not None and end is not None and end <= start:
        raise UserError(f"{where}: ends at {end} s, before it starts at {start} s")
    return Medium("video", folder / value["path"], start, end)


def _plain(text: str) -> str:
    return vqa.normalised(vqa.on_one_line(text))


def _call(item: Item, answer: str) -> JudgeCall:
    correct = " or ".join(item.fields["answers"])
    prompt = f"Question: {item.question}\nCorrect answer: {correct}\nModel's answer: {answer}"
    return JudgeCall(item.id, prompt, system=right_or_wrong.PROMPT)


def _judged(reply: str | None) -> Verdict:
    if reply is None:
        return Verdict(None, None)
    right = right_or_wrong.is_correct(reply)
    parsed = None if right is None else "right" if right else "wrong"
    return Verdict(parsed, float(bool(right)), {"reply": reply})
