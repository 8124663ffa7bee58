"""Model work: the floating-point operations that a row needs, whatever a program spends on it.

Letters: L positions of a row, T frames, P patches, Q queries, D width.

MFU = model work / (seconds * peak of all chips). The formula is PaLM's (arXiv 2204.02311, appendix
B), with causal attention halved and what is frozen taken into account:

- A product with a weight matrix of n elements costs 2n for each position that passes it. Backward
  it costs 2n again for the gradient of its input, if anything before it or in its branch is
  trained, and 2n for the gradient of the matrix, if that is trained. So a language model of N
  parameters costs 6N a token when it is trained, 4N when it is frozen and something before or
  beside it (vision, connector, LoRA) is trained, and 2N when nothing is.
- Attention's two products cost 4 L^2 D a layer, half of that where it is causal, and backward twice
  as much again. A packed row counts as one of L positions.
- Nothing is counted for what the backward pass recomputes, nor for norms, softmax, the loss, the
  optimizer and looking words up.
- The language model's head counts for every position, also where the loss leaves out those that
  are not supervised (training/objectives/cross_entropy.py).
- Vision tower and connector run for every slot of a row, filled or not, and are counted so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flax.traverse_util import flatten_dict

from owl_jax.data.batch import RowShape
from owl_jax.models.config import PARTS, OwlConfig
from owl_jax.models.parts import Path
from owl_jax.training.partition import FROZEN

_ORDER = tuple(PARTS)  # in which data passes the subtrees


@dataclass(frozen=True)
class _Work:
    """A part of a row's forward pass.

    flops: its operations. is_weight: a product with a weight matrix; else attention.
    is_trained: of the weight matrix.
    """

    branch: str
    flops: float
    is_weight: bool = False
    is_trained: bool = False


def training_flops(
    model: OwlConfig, shapes: Mapping[str, Any], labels: Mapping[str, Any], row: RowShape
) -> float:
    """Operations of one row in a training step: forward, and backward as far as it is needed.

    Args:
      shapes: the parameter tree; its leaves have a `shape`.
      labels: the same tree with each leaf's recipe or "frozen" (training/partition.py, `assign`).
    """
    # Vectors count here, too: a trained bias needs the gradients of all that comes after it.
    trained = {
        _branch(path) for path, label in flatten_dict(dict(labels)).items() if label != FROZEN
    }
    first = min((_ORDER.index(branch) for branch in trained), default=len(_ORDER))
    total = 0.0
    for work in _works(model, shapes, labels, row):
        total += work.flops
        if _ORDER.index(work.branch) >= first:
            total += work.flops if work.is_weight else 2 * work.flops
        if work.is_trained:
            total += work.flops
    return total


def prefill_flops(model: OwlConfig, shapes: Mapping[str, Any], row: RowShape) -> float:
    """Operations of reading one prompt of `row.length` positions, with the last one's logits."""
    whole = sum(work.flops for work in _works(model, shapes, None, row))
    head = 2.0 * model.llm.vocab_size * model.llm.hidden_size
    return whole - head * (row.length - 1)


def decode_flops(model: OwlConfig, shapes: Mapping[str, Any], slots: int) -> float:
    """Operations of one new token of one row that attends to a cache of `slots` positions."""
    token = RowShape(1, model.media_length, model.vision.image_size)
    products = sum(work.flops for work in _works(model, shapes, None, token) if work.is_weight)
    return products + 4.0 * slots * model.llm.hidden_size * model.llm.num_layers


def _works(
    model: OwlConfig, shapes: Mapping[str, Any], labels: Mapping[str, Any] | None, row: RowShape
) -> Iterator[_Work]:
    """All that a row's forward pass does."""
    # (how many, frames of each) of the row's media.
    media = ((row.image_slots, 1), (row.video_slots, row.frames))
    named = None if labels is None else flatten_dict(dict(labels))
    for path, leaf in flatten_dict(dict(shapes)).items():
        if not _is_matrix(path, model):
            continue
        branch = _branch(path)
        passing = row.length
        if branch != "llm":
            passing = sum(count * _passing(path, model, frames) for count, frames in media)
        is_trained = named is not None and named[path] != FROZEN
        yield _Work(branch, 2.0 * math.prod(leaf.shape) * passing, True, is_trained)

    for count, frames in media:
        yield _Work("vision", count * model.vision.attention_flops(frames))
        yield _Work("connector", count * model.connector.attention_flops(model.vision, frames))
    yield _Work("llm", model.llm.attention_flops(row.length))


def _passing(path: Path, model: OwlConfig, frames: int) -> int:
    """How many tokens of one medium pass a matrix of the vision tower or the connector."""
    if path[0] == "vision":
        return model.vision.tokens_through(path[1:], frames)
    return model.connector.tokens_through(path[1:], model.vision, frames)


def _is_matrix(path: Path, model: OwlConfig) -> bool:
    """Whether positions are multiplied with it; an embedding is only where it is the head, too."""
    if path[-1] == "embedding":
        return path[1] in model.llm.HEAD
    return path[-1] == "kernel" or path[0] == "lora"


def _branch(path: Path) -> str:
    """LoRA is a part of the language model."""
    return "llm" if path[0] == "lora" else path[0]
