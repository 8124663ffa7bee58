"""Model FLOPs of a sequence, independent of how a program computes it.

Letters: L tokens of a sequence, D width.

MFU = model FLOPs / (seconds * peak of all chips). The formula is PaLM's (arXiv 2204.02311, appendix
B), with causal attention halved and frozen weights taken into account:

- A matmul with a weight matrix of n elements costs 2n per token. The backward pass costs another 2n
  for the input gradient, if anything before it or in its subtree is trained, and 2n for the weight
  gradient, if the matrix is trained. A language model of N parameters costs 6N per token when it is
  trained, 4N when it is frozen and something before or beside it (vision, connector, LoRA) is
  trained, and 2N when nothing is.
- The two matmuls of attention cost 4 L^2 D per layer, where D is the width of all heads together,
  or half of that if causal. The backward pass costs twice as much as the forward pass. A packed
  sequence counts as one sequence of L tokens.
- Rematerialisation, norms, softmax, the loss, the optimizer and embedding look-ups do not count.
- The language model's head counts for every token, even if the loss skips unsupervised ones
  (training/objectives/cross_entropy.py).
- Vision tower and connector count for every media slot, filled or not, since they run for each. If
  media tokens have weights of their own in the language model, all slots count as filled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flax.traverse_util import flatten_dict

from owl_jax.data.batch import SequenceShape
from owl_jax.models.config import PARTS, OwlConfig
from owl_jax.models.parts import Path, faults_told
from owl_jax.training.partition import FROZEN

_ORDER = tuple(PARTS)  # subtrees in the order of the forward pass


@dataclass(frozen=True)
class _Operation:
    """FLOPs of one operation of a sequence's forward pass.

    is_weight: a matmul with a weight matrix; otherwise attention.
    is_trained: whether the weight matrix is trained.
    """

    subtree: str
    flops: float
    is_weight: bool = False
    is_trained: bool = False


def training_flops(
    model: OwlConfig, shapes: Mapping[str, Any], labels: Mapping[str, Any], row: SequenceShape
) -> float:
    """FLOPs of one sequence in a training step: forward, and the parts of backward that run.

    Args:
      shapes: the parameter tree; its leaves have a `shape`.
      labels: the same tree with each leaf's recipe or "frozen" (training/partition.py, `assign`).
    """
    # Includes vectors: even a trained bias needs the gradients of everything after it.
    trained = {
        _subtree(path) for path, label in flatten_dict(dict(labels)).items() if label != FROZEN
    }
    first = min((_ORDER.index(subtree) for subtree in trained), default=len(_ORDER))
    total = 0.0
    for operation in _operations(model, shapes, labels, row):
        total += operation.flops
        if _ORDER.index(operation.subtree) >= first:
            total += operation.flops if operation.is_weight else 2 * operation.flops
        if operation.is_trained:
            total += operation.flops
    return total


def prefill_flops(model: OwlConfig, shapes: Mapping[str, Any], row: SequenceShape) -> float:
    """FLOPs of prefilling a prompt of `row.length` tokens, with logits of the last token only."""
    whole = sum(operation.flops for operation in _operations(model, shapes, None, row))
    head = 2.0 * model.llm.vocab_size * model.llm.hidden_size
    return whole - head * (row.length - 1)


def decode_flops(model: OwlConfig, shapes: Mapping[str, Any], slots: int) -> float:
    """FLOPs of decoding one token of one sequence, with a cache of `slots` tokens."""
    token = SequenceShape(1, model.media_lengths(), model.image_size)
    matmuls = sum(
        operation.flops
        for operation in _operations(model, shapes, None, token)
        if operation.is_weight
    )
    heads = model.llm.num_heads * model.llm.head_dim
    return matmuls + 4.0 * slots * heads * model.llm.num_layers


def _operations(
    model: OwlConfig,
    shapes: Mapping[str, Any],
    labels: Mapping[str, Any] | None,
    row: SequenceShape,
) -> list[_Operation]:
    """Every counted operation of a sequence's forward pass."""
    with faults_told(*model.parts.values()):
        return list(_each_operation(model, shapes, labels, row))


def _each_operation(
    model: OwlConfig,
    shapes: Mapping[str, Any],
    labels: Mapping[str, Any] | None,
    row: SequenceShape,
) -> Iterator[_Operation]:
    # (count, frames) of images and of videos.
    media = ((row.image_slots, 1), (row.video_slots, row.frames))
    named = None if labels is None else flatten_dict(dict(labels))
    for path, leaf in flatten_dict(dict(shapes)).items():
        if not _is_matrix(path, model):
            continue
        subtree = _subtree(path)
        if subtree == "llm":
            tokens = model.llm.tokens_through(path, row.length, row.media_tokens)
        else:
            tokens = sum(count * _media_tokens(path, model, frames) for count, frames in media)
        is_trained = named is not None and named[path] != FROZEN
        yield _Operation(subtree, 2.0 * math.prod(leaf.shape) * tokens, True, is_trained)

    if model.vision is not None and model.connector is not None:
        for count, frames in media:
            flops = model.connector.attention_flops(model.vision, frames)
            yield _Operation("vision", count * model.vision.attention_flops(frames))
            yield _Operation("connector", count * flops)
    yield _Operation("llm", model.llm.attention_flops(row.length))


def _media_tokens(path: Path, model: OwlConfig, frames: int) -> int:
    """How many tokens of one medium a matrix of the vision tower or connector multiplies."""
    assert model.vision is not None and model.connector is not None
    if path[0] == "vision":
        return model.vision.tokens_through(path[1:], frames)
    return model.connector.tokens_through(path[1:], model.vision, frames)


def _is_matrix(path: Path, model: OwlConfig) -> bool:
    """Whether a matmul uses the parameter; it uses an embedding only if that is also the head."""
    if path[-1] == "embedding":
        return path[1] in model.llm.head_modules
    return path[-1] == "kernel" or path[0] == "lora"


def _subtree(path: Path) -> str:
    """The subtree of a parameter; LoRA counts as the language model."""
    return "llm" if path[0] == "lora" else path[0]
