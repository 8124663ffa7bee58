"""MME: two yes/no questions about a picture. arXiv 2306.13394,
github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (branch Evaluation, calculation.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, listed, shown
from owl_jax.evaluation.benchmark import (
    Item,
    Judged,
    Medium,
    RuleBenchmark,
    by_category,
    by_group,
    mean,
)
from owl_jax.evaluation.data_files import read_text
from owl_jax.evaluation.scorers import yes_no

_PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
_COGNITION = (
    *("commonsense_reasoning", "numerical_calculation"),
    *("text_translation", "code_reasoning"),
)
_SUBTASKS = _PERCEPTION + _COGNITION
_PICTURES = (".png", ".jpg", ".jpeg")
_COUNTED = ("TP", "FN", "TN", "FP", "precision", "recall")

Parser = Callable[[str], str | None]


class Mme(RuleBenchmark):
    """14 subtasks, each with a score from 0 to 200: 100 * (accuracy + accuracy+).

    accuracy+ is the share of pictures of which both questions are answered right. An answer means
    yes or no if that word is within its first four characters; anything else is wrong.
    """

    name = "mme"
    kind = "yes_no"
    headline = "perception, of 2,000"

    def read(self, data: Path) -> list[Item]:
        """A folder for each subtask, with 0001.txt beside 0001.png; or with images/0001.jpg and
        questions_answers_YN/0001.txt."""
        missing = [name for name in _SUBTASKS if not (data / name).is_dir()]
        if missing:
            raise UserError(
                f"--data={data} has no folder {listed(missing)}; expected the folders of MME's "
                "14 subtasks"
            )
        return [item for name in _SUBTASKS for item in _read_subtask(name, data / name)]

    def parse(self, item: Item, answer: str) -> str | None:
        del item
        return first_characters(answer)

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        return _official(judged, first_characters)

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return sum(
            _points(members, first_characters)
            for name, members in by_category(judged).items()
            if name in _PERCEPTION
        )

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """official_detail: counts and precision of each subtask. lmms_eval: strips the answer and
        takes "y" and "n". vlmevalkit_exact_matching: the words may be anywhere in the answer."""
        toolkit = _official(judged, yes_no.whole_word)
        return {
            "official_detail": {
                name: _detail(members) for name, members in by_category(judged).items()
            },
            "lmms_eval": _official(judged, lmms_eval),
            "vlmevalkit_exact_matching": {
                "perception": toolkit["Perception"].pop("total"),
                "reasoning": toolkit["Cognition"].pop("total"),
                **toolkit["Perception"],
                **toolkit["Cognition"],
            },
        }


def first_characters(answer: str) -> str | None:
    """The official parser."""
    start = answer.lower()[:4]
    if "yes" in start:
        return "Yes"
    return "No" if "no" in start else None


def lmms_eval(answer: str) -> str | None:
    """lmms-eval's parser."""
    text = answer.strip().replace(".", "")
    return {"y": "Yes", "n": "No"}.get(text.lower()) or first_characters(text)


def _read_subtask(name: str, folder: Path) -> Iterable[Item]:
    questions, pictures = folder / "questions_answers_YN", folder / "images"
    if not questions.is_dir():
        questions = pictures = folder
    paths = sorted(questions.glob("*.txt"))
    if not paths:
        raise UserError(f"{questions} has no text files; expected one for each picture of MME")
    named = {path.stem: path for path in pictures.glob("*") if path.suffix.lower() in _PICTURES}
    for path in paths:
        picture = named.get(path.stem, pictures / f"{path.stem}.jpg")
        lines = read_text(path).splitlines()
        if len(lines) != 2:
            raise UserError(f"{path} has {len(lines)} lines; expected two questions")
        for number, line in enumerate(lines):
            question, _, truth = line.partition("\t")
            if truth.strip() not in ("Yes", "No"):
                raise UserError(
                    f"{path}: line {number + 1} is {shown(line)}; expected a question, a tab and "
                    "Yes or No"
                )
            yield Item(
                id=f"{name}/{path.stem}/{number}",
                question=question,
                media=(Medium("image", picture),),
                truth=truth.strip(),
                category=name,
                group=f"{name}/{path.stem}",
            )


def _official(judged: Sequence[Judged], parser: Parser) -> dict[str, Any]:
    found = by_category(judged)
    scores: dict[str, Any] = {}
    for part, names in (("Perception", _PERCEPTION), ("Cognition", _COGNITION)):
        points = {name: _points(found[name], parser) for name in names if name in found}
        scores[part] = {"total": sum(points.values()), **points}
    return scores


def _points(judged: Sequence[Judged], parser: Parser) -> float:
    pictures = [
        [parser(one.answer) == one.item.truth for one in members]
        for members in by_group(judged).values()
    ]
    right = [correct for picture in pictures for correct in picture]
    return 100 * mean(right) + 100 * mean(all(picture) for picture in pictures)


def _detail(judged: Sequence[Judged]) -> dict[str, float]:
    pairs = [(one.verdict.parsed, one.item.truth) for one in judged]
    counts = yes_no.confusion(pairs)
    return {
        **{name: counts[name] for name in _COUNTED},
        "other_num": sum(parsed is None for parsed, _ in pairs),
        "acc": mean(parsed == truth for parsed, truth in pairs),
        "acc_plus": mean(
            all(one.verdict.parsed == one.item.truth for one in members)
            for members in by_group(judged).values()
        ),
    }
