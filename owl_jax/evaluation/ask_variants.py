"""Other ways of asking the same questions, for baselines."""

from __future__ import annotations

from collections.abc import Sequence

from owl_jax.evaluation.ask import Asking
from owl_jax.inference.api import Owl


def blind(askings: Sequence[Asking]) -> list[Asking]:
    """The questions without pictures and videos."""
    raise NotImplementedError


def shuffled(askings: Sequence[Asking], seed: int) -> list[Asking]:
    """The questions, each with the pictures and videos of another one that has as many."""
    raise NotImplementedError


def base_language_model(owl: Owl) -> Owl:
    """The language model alone, without adapter. Raises UserError if it is part of the model no
    more, because training has changed it."""
    raise NotImplementedError
