"""BLEU, ROUGE-L and CIDEr-D of captions, as github.com/tylin/coco-caption computes them.

A caption is a list of tokens (scorers/ptb_tokens.py). Each picture has one candidate and several
references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Tokens = Sequence[str]
NGram = tuple[str, ...]

ORDER = 4  # of the longest n-grams

# The official code adds these to numerator and denominator against division by zero.
_TINY, _SMALL = 1e-15, 1e-9
_BETA = 1.2  # of ROUGE-L: recall counts beta^2 times as much as precision
_SIGMA = 6.0  # of CIDEr-D's penalty on lengths


@dataclass(frozen=True)
class BleuCounts:
    """What a picture adds to a corpus's BLEU.

    matched, total: n-grams of the candidate that a reference has, and all, by n.
    length, reference_length: tokens of the candidate, and of the reference of the closest length.
    """

    matched: tuple[int, ...]
    total: tuple[int, ...]
    length: int
    reference_length: int


def bleu_counts(candidate: Tokens, references: Sequence[Tokens]) -> BleuCounts:
    """Counts for BLEU-1 to BLEU-4 (Papineni et al. 2002); matches are clipped."""
    most: Counter[NGram] = Counter()
    for reference in references:
        most |= n_grams(reference)
    matched, length = [0] * ORDER, len(candidate)
    for n_gram, count in n_grams(candidate).items():
        matched[len(n_gram) - 1] += min(count, most[n_gram])
    closest = min((abs(len(tokens) - length), len(tokens)) for tokens in references)[1]
    total = tuple(max(0, length - n) for n in range(ORDER))
    return BleuCounts(tuple(matched), total, length, closest)


def bleu(counts: Sequence[BleuCounts]) -> list[float]:
    """BLEU-1 to BLEU-4 of a corpus, or of one picture."""
    length = sum(one.length for one in counts)
    ratio = (length + _TINY) / (sum(one.reference_length for one in counts) + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(ORDER):
        matched = sum(one.matched[n] for one in counts)
        product *= (matched + _TINY) / (sum(one.total[n] for one in counts) + _SMALL)
        scores.append(product ** (1 / (n + 1)) * penalty)
    return scores


def rouge_l(candidate: Tokens, references: Sequence[Tokens]) -> float:
    """ROUGE-L (Lin 2004). Precision and recall are the best of any reference, each apart."""
    common = [longest_common_subsequence(candidate, reference) for reference in references]
    precision = max(common) / max(len(candidate), 1)
    recall = max(
        length / max(len(reference), 1)
        for length, reference in zip(common, references, strict=True)
    )
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def longest_common_subsequence(first: Tokens, second: Tokens) -> int:
    """The number of its tokens."""
    row = [0] * (len(second) + 1)
    for token in first:
        before = 0
        for place, other in enumerate(second, 1):
            above = row[place]
            row[place] = before + 1 if token == other else max(above, row[place - 1])
            before = above
    return row[-1]


class Cider:
    """CIDEr-D (arXiv 1411.5726), times 10.

    references: of all pictures. An n-gram's weight depends on how many of these pictures have it:
      the scores of a subset differ.
    """

    def __init__(self, references: Sequence[Sequence[Tokens]]) -> None:
        self._log_pictures = math.log(len(references)) if references else 0.0
        self._pictures: Counter[NGram] = Counter()
        for group in references:
            self._pictures.update({n_gram for tokens in group for n_gram in n_grams(tokens)})

    def score(self, candidate: Tokens, references: Sequence[Tokens]) -> float:
        """The score of a picture's caption."""
        given = self._vectors(candidate)
        scores = [_similarity(given, self._vectors(tokens)) for tokens in references]
        return 10 * sum(scores) / ORDER / len(references)

    def _vectors(self, tokens: Tokens) -> _Vectors:
        weights: list[dict[NGram, float]] = [{} for _ in range(ORDER)]
        for n_gram, count in n_grams(tokens).items():
            rarity = self._log_pictures - math.log(max(1, self._pictures[n_gram]))
            weights[len(n_gram) - 1][n_gram] = count * rarity
        norms = [math.sqrt(sum(value**2 for value in one.values())) for one in weights]
        return _Vectors(weights, norms, max(0, len(tokens) - 1))


@dataclass(frozen=True)
class _Vectors:
    """weights, norms: by n. length: in bigrams, as the official code counts."""

    weights: Sequence[Mapping[NGram, float]]
    norms: Sequence[float]
    length: int


def _similarity(given: _Vectors, reference: _Vectors) -> float:
    """The sum over n of cosine similarities, with clipped counts and the penalty on lengths."""
    penalty = math.exp(-((given.length - reference.length) ** 2) / (2 * _SIGMA**2))
    total = 0.0
    for n in range(ORDER):
        other = reference.weights[n]
        product = sum(
            min(weight, other.get(n_gram, 0.0)) * other.get(n_gram, 0.0)
            for n_gram, weight in given.weights[n].items()
        )
        norms = given.norms[n] * reference.norms[n]
        total += (product / norms if norms else product) * penalty
    return total


def n_grams(tokens: Tokens) -> Counter[NGram]:
    """The n-grams of a text for n from 1 to 4, counted."""
    return Counter(
        tuple(tokens[start : start + n])
        for n in range(1, ORDER + 1)
        for start in range(len(tokens) - n + 1)
    )
