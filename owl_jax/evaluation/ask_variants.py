"""Other ways of asking the same questions, for baselines."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Medium, Question
from owl_jax.evaluation.prompts import Asking
from owl_jax.inference.api import Owl


def blind(askings: Sequence[Asking]) -> list[Asking]:
    """The questions without pictures and videos."""
    return [_with_media(asking, None) for asking in askings]


def shuffled(askings: Sequence[Asking], seed: int) -> list[Asking]:
    """The questions, each with the pictures and videos of another one that has as many.

    Questions about the same media get the same other ones. A question keeps its media only if no
    other question has as many of each kind.
    """
    kinds: dict[tuple[str, ...], dict[tuple[Medium, ...], None]] = defaultdict(dict)
    for asking in askings:
        kinds[tuple(medium.kind for medium in asking.media)][asking.media] = None
    other: dict[tuple[Medium, ...], tuple[Medium, ...]] = {}
    for distinct in kinds.values():
        order = list(distinct)
        random.Random(seed).shuffle(order)
        other |= zip(order, [*order[1:], *order[:1]], strict=True)
    return [_with_media(asking, other[asking.media]) for asking in askings]


def base_language_model(owl: Owl) -> Owl:
    """The language model alone, without adapter.

    Raises UserError for a model without an adapter: its language model may have been trained.
    """
    if owl.config.lora is None:
        raise UserError(
            "the model has no adapter, so its language model may not be the base; evaluate the "
            "base language model by itself: --model=DIR of it"
        )
    config = replace(owl.config, vision=None, connector=None, lora=None)
    return owl.with_params(config, {"llm": owl.params["llm"]})


def _with_media(asking: Asking, media: Sequence[Medium] | None) -> Asking:
    """The asking with other media in the same places; None: without any."""
    left = None if media is None else iter(media)

    def changed(question: Question) -> Question:
        parts: list[str | Medium] = []
        for part in question.parts:
            if not isinstance(part, Medium):
                parts.append(part)
            elif left is not None:
                parts.append(next(left))
        return replace(question, parts=tuple(parts))

    history = tuple((changed(question), answer) for question, answer in asking.history)
    return replace(asking, question=changed(asking.question), history=history)
