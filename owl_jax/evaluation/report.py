"""The reports people look at: report.html of the demonstration, and of one training's workdir.

Both are one file each (pages/page.py): pictures and curves are in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from owl_jax.demo.questions import Question, normalize_answer
from owl_jax.files import write_whole
from owl_jax.pages.chart import Line, line_chart
from owl_jax.pages.page import Share, bar_table, grid, page
from owl_jax.pages.picture import picture
from owl_jax.text.conversation import IMAGE_TOKEN, VIDEO_TOKEN
from owl_jax.training.evaluators.evaluator import OTHER_PREFIXES
from owl_jax.training.evaluators.page import held_out_examples
from owl_jax.training.hooks.metric_writer import FILE_NAME, read_lines

if TYPE_CHECKING:
    from owl_jax.demo.evaluation import Answered

# The kinds of questions by the names that demo/evaluation.py gives them.
_KINDS = {
    "image": "One picture",
    "multi_image": "Two pictures",
    "video": "A video",
    "text": "Words alone",
}
_RATE = "learning_rate/"


def write_report(
    path: Path, report: Mapping[str, Any], examples: Sequence[Answered], stage_dirs: Sequence[Path]
) -> None:
    """Writes the demonstration's report.html.

    Args:
      path: the file.
      report: what report.json holds (demo/evaluation.py).
      examples: questions with the model's answers, shown by kind in their order.
      stage_dirs: the workdirs of the trainings, named by their last part.
    """
    losses = [
        line_chart(f"Loss in {stage.name}", [_line(_rows(stage), "loss")], log=True, smooth=True)
        for stage in stage_dirs
    ]
    sections = [
        _headline(report),
        "<h2>Training</h2>",
        '<p class="soft">Loss by step, on a logarithmic axis: each logged step (thin) and the mean '
        "of its neighbours (bold).</p>",
        grid(losses),
        _seconds(report["seconds"]),
        "<h2>Accuracy by ability</h2>",
        _abilities(report["by_ability"]),
        "<h2>Questions and answers</h2>",
        '<p class="soft">The first held-out questions of each kind, whatever the answer.</p>',
        _examples(examples),
    ]
    body = "\n".join(sections)
    write_whole(path, page("A small mPLUG-Owl, trained from nothing", body))


def write_curves(path: Path, workdir: Path) -> None:
    """Writes the report.html of one training: loss, learning rates, gradient norm, throughput,
    what evaluators found."""
    rows = _rows(workdir)
    rates = sorted({name for row in rows for name in row if name.startswith(_RATE)})
    charts = [
        line_chart("Loss", [_line(rows, "loss")], log=True, smooth=True),
        line_chart("Learning rate", [_line(rows, name) for name in rates]),
        line_chart("Gradient norm", [_line(rows, "grad_norm")], log=True, smooth=True),
        line_chart(
            "Tokens per second",
            [_line(rows, name) for name in ("tokens_per_second", "useful_tokens_per_second")],
        ),
        *(line_chart(name, [_line(rows, name)]) for name in _evaluations(rows)),
    ]
    body = (
        '<p class="soft">By step. Loss and gradient norm: each logged step (thin) and the mean of '
        f"its neighbours (bold), on a logarithmic axis.</p>\n{grid(charts, '26rem')}\n"
        f"{held_out_examples(workdir)}"
    )
    write_whole(path, page(workdir.resolve().name, body))


def _evaluations(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics of evaluators, EVALUATOR/METRIC, in the order in which they were first logged.

    Without the numbers of tokens: they are the same each time.
    """
    names = dict.fromkeys(name for row in rows for name in row if "/" in name)
    return [
        name
        for name in names
        if name.partition("/")[0] not in OTHER_PREFIXES and not name.endswith("/supervised_tokens")
    ]


def _headline(report: Mapping[str, Any]) -> str:
    shares = [
        Share("Questions about one picture", report["image_accuracy"]),
        Share("the same, pictures shuffled", report["shuffled_accuracy"], inner=True),
        Share("the best guess without looking", report["blind_accuracy"], inner=True),
        Share("Questions about two pictures", report["multi_image_accuracy"]),
        Share("Questions about a video", report["video_accuracy"]),
        Share("Words alone, before stage 2", report["text_accuracy_before"]),
        Share("Words alone, after stage 2", report["text_accuracy_after"]),
    ]
    command = f"python -m owl_jax.chat --model={report['model']}"
    return (
        f"<p>Share of right answers to {report['questions']:,} held-out questions: scenes, sums "
        f"and phrasings that the training never showed.</p>\n{bar_table(shares)}\n"
        f"<p>Talk to it: <code>{escape(command)}</code></p>"
    )


def _seconds(seconds: Mapping[str, float]) -> str:
    rows = "".join(
        f'<tr><th>{escape(name)}</th><td class="number">{_duration(value)}</td></tr>\n'
        for name, value in [*seconds.items(), ("together", sum(seconds.values()))]
    )
    return f'<h3>Time</h3>\n<table class="narrow">\n{rows}</table>'


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _abilities(by_ability: Mapping[str, float]) -> str:
    """Keys are "kind: ability"."""
    cards = []
    for kind, title in _KINDS.items():
        prefix = f"{kind}: "
        shares = [
            Share(name.removeprefix(prefix).replace("_", " "), value)
            for name, value in by_ability.items()
            if name.startswith(prefix)
        ]
        if shares:
            cards.append(f'<div class="card"><b>{title}</b>\n{bar_table(shares)}</div>')
    return grid(cards, "15rem")


def _examples(examples: Sequence[Answered]) -> str:
    parts = []
    for kind, title in _KINDS.items():
        cards = [_example(item) for item in examples if _kind(item.question) == kind]
        if cards:
            parts.append(f"<h3>{title}</h3>\n{grid(cards)}")
    return "\n".join(parts)


def _kind(question: Question) -> str:
    if question.videos:
        return "video"
    return ("text", "image", "multi_image")[min(len(question.images), 2)]


def _example(item: Answered) -> str:
    """Media, question, the model's answer, and the true one where they differ."""
    question = item.question
    right = normalize_answer(item.answer) == normalize_answer(question.answer)
    mark = '<span class="right">✓ right</span>' if right else '<span class="wrong">✗ wrong</span>'
    strips = [_strip(question.images, "picture"), *(_strip(v, "frame") for v in question.videos)]
    told = "".join(f'<p class="soft">{escape(line)}</p>\n' for line in _told(question))
    return (
        f'<div class="card">{"".join(strips)}\n{told}<p>{escape(question.question)}</p>\n'
        f"<p>Answer: <b>{escape(item.answer) or '(nothing)'}</b> {mark}</p>\n"
        f'<p class="soft">True answer: {escape(question.answer)}</p></div>'
    )


def _told(question: Question) -> list[str]:
    """What the human says before the question, without the marks of media."""
    lines = question.prompt_text.splitlines()
    said = [line.removeprefix("Human: ") for line in lines if line.startswith("Human: ")]
    return [line for line in said[:-1] if line not in (IMAGE_TOKEN, VIDEO_TOKEN)]


def _strip(pictures: Sequence[Image.Image], noun: str) -> str:
    """The pictures in a row, inside the page."""
    if not pictures:
        return ""
    tags = (
        picture(image, f"{noun} {number} of {len(pictures)}")
        for number, image in enumerate(pictures, start=1)
    )
    return f'<div class="media">{"".join(tags)}</div>'


def _rows(workdir: Path) -> list[dict[str, Any]]:
    """The logged steps of a workdir; none if nothing was logged there."""
    file = workdir / FILE_NAME
    if not file.exists():
        return []
    lines, damaged = read_lines(file)
    if damaged:
        print(f"{file}: {damaged} damaged lines are left out of the curves", flush=True)
    return [values for _, values in lines]


def _line(rows: Sequence[Mapping[str, Any]], name: str) -> Line:
    """A metric by step, without the steps where it was not finite (null) or not logged."""
    kept = [row for row in rows if row.get(name) is not None]
    return Line(
        name.removeprefix(_RATE), [row["step"] for row in kept], [row[name] for row in kept]
    )
