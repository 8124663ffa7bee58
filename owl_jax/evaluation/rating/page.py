"""The page on which people grade answers: one HTML file, which works without a network."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Item, Medium
from owl_jax.evaluation.rating.tally import GRADES, Answers, token_of
from owl_jax.files import write_whole
from owl_jax.media.image import load_image
from owl_jax.pages.page import picture, render

_SIDE = 640  # pixels of a picture's longer side

_MEANINGS = {
    "A": "correct and satisfying",
    "B": "acceptable, with minor imperfections",
    "C": "an attempt, with significant errors",
    "D": "irrelevant or invalid",
}


def write_rating_page(path: Path, items: Sequence[Item], answers: Answers, seed: int) -> None:
    """Writes the page.

    The answers to a question come in an order drawn by the seed, without the names of their
    systems: the file has only tokens (tally.token_of). Grades stay in the browser until they are
    exported. Raises UserError for a picture that cannot be read.
    """
    generator = random.Random(seed)
    pictures: dict[str, Markup] = {}
    questions = []
    for item in items:
        given = [
            {"token": token_of(system, item.id, seed), "text": texts[item.id]}
            for system, texts in sorted(answers.items())
            if item.id in texts
        ]
        generator.shuffle(given)
        for medium in item.media:
            pictures.setdefault(str(medium.source), _embedded(medium))
        questions.append(
            {
                "question": item.question,
                "pictures": [list(pictures).index(str(medium.source)) for medium in item.media],
                "answers": given,
            }
        )
    # The texts may have lone surrogates, which UTF-8 cannot encode.
    content = json.dumps(questions, ensure_ascii=False).encode("utf-8", "replace").decode()
    page = render(
        __package__,
        "rating.html",
        title="Grade the answers",
        grades=[(grade, _MEANINGS[grade]) for grade in GRADES],
        pictures=list(pictures.values()),
        # A script may not contain "</script>", nor JSON what HTML reads as the start of a tag.
        questions=Markup(content.replace("<", "\\u003c")),
        page_id=hashlib.sha256(content.encode()).hexdigest()[:16],
        total=sum(len(question["answers"]) for question in questions),
    )
    write_whole(path, page)


def _embedded(medium: Medium) -> Markup:
    if not isinstance(medium.source, Path | bytes):
        raise UserError("only questions about pictures are rated on a page")
    return picture(load_image(medium.source), "the picture of the question", _SIDE)
