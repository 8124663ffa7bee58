"""A training step on the CPU against the same model in PyTorch, per padded and per useful token.

    python benchmarks/torch_step.py [--width=512] [--layers=8] [--rows=2] [--length=320]

Needs torch, transformers and peft (pip install -e '.[parity]'). A stage 2 step (LoRA on q and v and
the abstractor trained, vision and language model frozen), float32, optimizer included; both sides
have the same weights, threads and cores, and take turns. First their losses of three steps must
agree, which shows that both do the same work.

by padded token   the same full sequences with one image for both.
by useful token   conversations of the lengths that packing.py draws for stage 2 of the paper. Ours
                  packs them into sequences of 2,048. PyTorch pads them: to the longest of a random
                  batch of four, as Hugging Face's trainer does; and to 2,048 tokens, as
                  mPLUG-Owl's does.

Ratios are PyTorch's time over ours: above 1, ours is faster. OpenMP's threads wait for each other
at every operation, so other load on the cores distorts PyTorch's wall time; if there is any, use
--threads=1 --clock=cpu.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from _timing import describe_device, missing, take_turns
from absl import flags
from packing import DISTRIBUTIONS, LENGTH, draw
from train_step import RULES, make_batch

from owl_jax import cli
from owl_jax.data.batch import Batch, Example, SequenceShape, collate
from owl_jax.data.conversations import Conversation
from owl_jax.data.packing import Packer, Row
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.language.llama import LlamaConfig
from owl_jax.models.lora import LoraConfig
from owl_jax.models.stack import unstack
from owl_jax.models.vision.clip import ClipConfig
from owl_jax.models.vlm import init_params
from owl_jax.text.media_index import MediaLengths
from owl_jax.training.objectives.next_token import next_token
from owl_jax.training.optimizer import Recipe, make_optimizer
from owl_jax.training.partition import assign, split
from owl_jax.training.state import new_state
from owl_jax.training.step import make_step

# train_step.py defines --width, --layers, --rows, --length and --rounds; packing.py --open_rows.
flags.FLAGS.set_default("width", 512)
flags.FLAGS.set_default("length", 320)
_THREADS = flags.DEFINE_integer("threads", 2, "threads, and cores, of each side", lower_bound=1)
_CLOCK = flags.DEFINE_enum(
    "clock", "wall", ["wall", "cpu"], "cpu, with --threads=1: for a machine under load"
)
_BATCH = flags.DEFINE_integer("batch", 4, "conversations padded to the same length")

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
MIX, SLOTS = DISTRIBUTIONS["stage 2 of the paper"]
RECIPES = {"adapter": Recipe(learning_rate=1e-4, schedule="constant")}
TOLERANCE = 1e-4  # of the losses

Run = Callable[[], Any]
Item = TypeVar("Item")


def middle_model(width: int, layers: int) -> OwlConfig:
    """A LLaMA of this size with heads of 64 and the released vocabulary; images of 224 pixels and
    65 tokens."""
    return OwlConfig(
        vision=ClipConfig(224, 14, 384, 1536, num_layers=6, num_heads=6),
        connector=AbstractorConfig(64, 384, 1024, num_layers=2, num_heads=6, query_stddev=0.02),
        llm=LlamaConfig(32_000, width, width * 11 // 4, layers, width // 64, width // 64),
        lora=LoraConfig(dropout=0.0),
    )


class Ours:
    """Our step; `run` takes a batch and returns the loss."""

    def __init__(self, config: OwlConfig, params: Any, compute: Compute):
        labels = assign(params, RULES, set(RECIPES))
        trainable, frozen = split(params, labels)
        self._frozen = unstack(frozen)
        optimizer = make_optimizer(RECIPES, split(labels, labels)[0], 1_000, clip_norm=1.0)
        self._step = jax.jit(
            make_step(next_token(config, compute), optimizer, seed=0), donate_argnums=0
        )
        self._state = new_state(jax.tree.map(jax.numpy.copy, trainable), optimizer)

    def run(self, batch: Batch) -> float:
        self._state, metrics = self._step(self._state, self._frozen, batch)
        return float(metrics["loss"])


def main(argv: list[str]) -> None:
    """Prints one table."""
    del argv
    if lacking := missing("torch", "transformers", "peft"):
        print(f"left out: {lacking}; pip install -e '.[parity]' in an environment of its own")
        return
    threads, clock = _THREADS.value, CLOCKS[_CLOCK.value]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    jax.config.update("jax_platforms", "cpu")
    import torch
    from _torch_model import TorchOwl, batch_inputs, copy_weights, make_torch_step

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = middle_model(flags.FLAGS.width, flags.FLAGS.layers)
    params = nn.meta.unbox(jax.jit(partial(init_params, config, Compute()))(jax.random.key(0)))
    owl = TorchOwl(config)
    copy_weights(owl, config, jax.tree.map(np.asarray, params))
    torch_step = make_torch_step(owl, ("lora", "connector"), RECIPES["adapter"].learning_rate)
    ours = Ours(config, params, Compute(scan_layers=False, loss_tile=40))

    def theirs(batch: Batch) -> float:
        return float(torch_step(batch_inputs(batch, config.num_tokens("image"))))

    print(
        f"Decoder of {flags.FLAGS.layers} x {flags.FLAGS.width}, {threads} threads, "
        f"{describe_device()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    rows, length, rounds = flags.FLAGS.rows, flags.FLAGS.length, flags.FLAGS.rounds
    full = make_batch(config, rows, length)
    check_losses([ours.run(full) for _ in range(3)], [theirs(full) for _ in range(3)])
    same = take_turns(
        {"ours": lambda: partial(ours.run, full), "theirs": lambda: partial(theirs, full)},
        rounds,
        clock,
    )
    even = [1.0] * rounds
    report("by padded token", same["theirs"][1], same["ours"][1], even, even)
    fastest = min(same["theirs"][1]) / min(same["ours"][1])
    print(f"PyTorch / owl_jax, fastest steps: {fastest:.2f}")

    conversations = draw(MIX, 2_000)
    packed = pack(conversations, config.media_lengths())
    fill = float(np.mean([row.length for row in packed]))
    alone = float(np.mean([item.length for item in conversations]))
    groups = iter(in_groups(conversations, _BATCH.value))
    some_rows = iter(in_groups(packed, rows))
    padded = lay_out(config, [[item] for item in conversations[:rows]], LENGTH)
    packed_lengths: list[int] = []
    lengths: list[list[int]] = []

    def next_rows() -> Run:
        chosen = next(some_rows)
        packed_lengths.append(sum(row.length for row in chosen))
        batch = lay_out(config, [row.conversations for row in chosen], LENGTH)
        return partial(ours.run, batch)

    def next_group() -> Run:
        group = next(groups)
        lengths.append([item.length for item in group])
        longest = lay_out(config, [[item] for item in group], max(lengths[-1]))
        return partial(theirs, longest)

    results = take_turns(
        {
            "packed": next_rows,
            "longest": next_group,
            "full": lambda: partial(theirs, padded),
        },
        rounds,
        clock,
    )
    used = sum(map(sum, lengths[1:])) / sum(max(group) * len(group) for group in lengths[1:])
    print(f"\nUseful tokens: {fill / LENGTH:.1%} packed, {used:.1%} padded to the longest of")
    print(f"{_BATCH.value}, {alone / LENGTH:.1%} padded to {LENGTH:,}")
    packed_tokens = [float(tokens) for tokens in packed_lengths[1:]]
    for name, tokens in (
        ("longest", [float(sum(group)) for group in lengths[1:]]),
        ("full", [rows * alone] * rounds),
    ):
        what = f"by useful token, PyTorch padded to the {name}"
        report(what, results[name][1], results["packed"][1], tokens, packed_tokens)


def check_losses(ours: Sequence[float], theirs: Sequence[float]) -> None:
    """Raises AssertionError if the losses of the two sides differ."""
    print(f"losses of three steps: {ours} and {theirs}")
    if max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) > TOLERANCE:
        raise AssertionError(f"the losses differ by more than {TOLERANCE}")


def report(
    what: str,
    theirs: Sequence[float],
    ours: Sequence[float],
    their_tokens: Sequence[float],
    our_tokens: Sequence[float],
) -> None:
    """Prints ratios of the seconds per token: over all rounds, and by round."""
    whole = (sum(theirs) / sum(their_tokens)) / (sum(ours) / sum(our_tokens))
    rounds = zip(theirs, their_tokens, ours, our_tokens, strict=True)
    ratios = sorted((a / n) / (b / m) for a, n, b, m in rounds)
    print(
        f"{what:<48}PyTorch / owl_jax: in all {whole:.2f}, median {median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


def pack(conversations: Sequence[Conversation], media: MediaLengths) -> list[Row]:
    """Packs conversations as training does."""
    packer = Packer(SequenceShape(LENGTH, media, 1, SLOTS), flags.FLAGS.open_rows)
    return [row for item in conversations if (row := packer.place(item))]


def in_groups(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Groups of `size` in random order, since the first packed sequences are not typical."""
    starts = np.random.default_rng(0).permutation(len(items) // size) * size
    return [items[start : start + size] for start in starts]


def lay_out(config: OwlConfig, rows: Sequence[Sequence[Conversation]], length: int) -> Batch:
    """A batch of random tokens and images with these lengths; half of the tokens are supervised."""
    random = np.random.default_rng(0)
    size = config.vision.image_size

    def example(item: Conversation) -> Example:
        n, images = len(item.input_ids), len(item.images)
        ids = random.integers(3, config.llm.vocab_size, n).astype(np.int32)
        ids[1 : 1 + images * config.num_tokens("image")] = -1
        pixels = random.integers(0, 256, (images, size, size, 3)).astype(np.uint8)
        return Example(ids, np.arange(n) > n // 2, pixels, pixels[:0])

    shape = SequenceShape(length, config.media_lengths(), size, image_slots=SLOTS)
    return collate([[example(item) for item in row] for row in rows], shape)


if __name__ == "__main__":
    cli.run(main)
