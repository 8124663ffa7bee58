"""Ways to ask a benchmark's question: its own, those of other families, or a file of the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import LETTERS, Benchmark, Item, Question, place_media
from owl_jax.evaluation.data_files import read_text

Template = Callable[[Benchmark, Item], Question]

# LLaVA-1.5's instructions (arXiv 2310.03744, table 7), which mPLUG-Owl2 uses too.
_LLAVA = {
    "yes_no": "Answer the question using a single word or phrase.",
    "short_answer": "Answer the question using a single word or phrase.",
    "choice": "Answer with the option's letter from the given choices directly.",
    "caption": "Provide a one-sentence caption for the provided image.",
}


def choose_template(name: str) -> Template:
    """The template `official`, `llava` or `owl`, or that of a file.

    A file has a Jinja template of the question's text, with the variables question, hint, choices
    [(letter, text), ...] and category. `<image>` and `<video>` mark the places of media, which
    otherwise come first. Raises UserError.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--template={name}: expected {', '.join(TEMPLATES)} or a file")
    try:
        template = SandboxedEnvironment(undefined=jinja2.StrictUndefined).from_string(
            read_text(path)
        )
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{path}: line {error.lineno}: {error.message}") from None

    def ask(_: Benchmark, item: Item) -> Question:
        try:
            text = template.render(
                question=item.question,
                hint=_hint(item),
                choices=_lettered(item),
                category=item.category,
            )
        except jinja2.TemplateError as error:
            raise UserError(f"{path}: {error.message}") from None
        return Question(place_media(text.strip(), item.media))

    return ask


def _official(benchmark: Benchmark, item: Item) -> Question:
    return benchmark.question(item)


def _llava(benchmark: Benchmark, item: Item) -> Question:
    options = [f"{letter}. {choice}" for letter, choice in _lettered(item)]
    lines = [_hint(item), item.question, *options, _LLAVA.get(benchmark.kind, "")]
    return Question(place_media("\n".join(filter(None, lines)), item.media))


def _owl(benchmark: Benchmark, item: Item) -> Question:
    """mPLUG-Owl's question for MMBench; other questions as they are."""
    del benchmark
    text = "\n".join(filter(None, [_hint(item), item.question]))
    if item.choices:
        options = " ".join(f"{letter}. {choice}" for letter, choice in _lettered(item))
        text = f"{text}\nThere are several options: {options}"
    return Question(place_media(text, item.media))


TEMPLATES: dict[str, Template] = {"official": _official, "llava": _llava, "owl": _owl}


def _hint(item: Item) -> str:
    return str(item.fields.get("hint") or "")


def _lettered(item: Item) -> list[tuple[str, str]]:
    return list(zip(LETTERS, item.choices, strict=False))
