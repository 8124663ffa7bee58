"""The demonstration's report.html: accuracies, loss curves, questions with answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owl_jax.demo.questions import Question, normalize_answer
from owl_jax.files import write_whole
from owl_jax.pages.page import Share, render
from owl_jax.text.turns import IMAGE_TOKEN, VIDEO_TOKEN
from owl_jax.training.report import loss_chart

if TYPE_CHECKING:
    from owl_jax.demo.evaluation import AnsweredQuestion

# Titles for the kinds of questions in demo/evaluation.py.
_KINDS = {
    "image": "One picture",
    "multi_image": "Two pictures",
    "video": "A video",
    "text": "Text only",
}

# Titles for the kinds of demo/probes.py.
_OUTSIDE = {
    "reworded": "In other words",
    "follow_up": 'About "it", after a question',
    "two_turns": "About two pictures, one at a time",
    "three_images": "About three pictures",
}


def write_report(
    path: Path,
    report: Mapping[str, Any],
    examples: Sequence[AnsweredQuestion],
    stage_dirs: Sequence[Path],
) -> None:
    """Writes the page.

    Args:
      path: the file.
      report: the contents of report.json (demo/evaluation.py).
      examples: questions with the model's answers; the page groups them by kind.
      stage_dirs: the workdirs of the training stages. Each loss curve is titled with the name of
        its workdir.
    """
    seconds = report["seconds"]
    by_kind = {
        title: [_example(item) for item in examples if _kind(item.question) == kind]
        for kind, title in (_KINDS | _OUTSIDE).items()
    }
    page = render(
        __package__,
        "report.html",
        title="A small mPLUG-Owl, trained from scratch",
        report=report,
        headline=_headline(report),
        outside=[Share(title, report[f"{kind}_accuracy"]) for kind, title in _OUTSIDE.items()],
        losses=[loss_chart(f"Loss in {stage.name}", {"loss": stage}) for stage in stage_dirs],
        seconds={
            name: _duration(value)
            for name, value in [*seconds.items(), ("total", sum(seconds.values()))]
        },
        abilities=_abilities(report["by_ability"]),
        examples={title: items for title, items in by_kind.items() if items},
    )
    write_whole(path, page)


def _headline(report: Mapping[str, Any]) -> list[Share]:
    return [
        Share("Questions about one picture", report["image_accuracy"]),
        Share("the same, pictures shuffled", report["shuffled_accuracy"], inner=True),
        Share("the best guess without looking", report["blind_accuracy"], inner=True),
        Share("Questions about two pictures", report["multi_image_accuracy"]),
        Share("Questions about a video", report["video_accuracy"]),
        Share("Text only, before stage 2", report["text_accuracy_before"]),
        Share("Text only, after stage 2", report["text_accuracy_after"]),
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _abilities(by_ability: Mapping[str, float]) -> dict[str, list[Share]]:
    """{title of a kind of question: its accuracies}. Keys of by_ability are "kind: ability"."""
    shares: dict[str, list[Share]] = {title: [] for title in _KINDS.values()}
    for name, value in by_ability.items():
        kind, _, ability = name.partition(": ")
        shares[_KINDS[kind]].append(Share(ability.replace("_", " "), value))
    return {title: of_kind for title, of_kind in shares.items() if of_kind}


def _kind(question: Question) -> str:
    if question.kind in _OUTSIDE:
        return question.kind
    if question.videos:
        return "video"
    return ("text", "image", "multi_image")[min(len(question.images), 2)]


def _example(item: AnsweredQuestion) -> dict[str, Any]:
    """A question, what was said before it, the model's answer, and whether that is right."""
    question = item.question
    return {
        "question": question,
        "context": _context_lines(question),
        "answer": item.answer,
        "right": normalize_answer(item.answer) == normalize_answer(question.answer),
    }


def _context_lines(question: Question) -> list[str]:
    """The lines before the question, without the system's and media markers."""
    _, *lines = question.prompt_text.splitlines()
    said = [line.removeprefix("Human: ").removeprefix("AI: ") for line in lines[:-2]]
    return [line for line in said if line not in (IMAGE_TOKEN, VIDEO_TOKEN)]
