"""How full packed sequences are, and how many more useful tokens a step has than with padding.

    python benchmarks/packing.py [--conversations=50000] [--open_rows=64]

Lengths are random; an image takes 65 tokens, a sequence has 2,048 as in mPLUG-Owl. Only the packing
itself is timed. The distributions, in tokens without those of images:

    visual instructions   45 of the template, and text: 37 % conversations (median 330), 15 %
                          descriptions (170), 48 % reasoning (250), log-normal, sigma 0.35: the
                          parts of LLaVA-Instruct-150K in their proportions; one image each
    stage 2 of the paper  150 parts of that, and text-only: 102 parts of short instructions (median
                          90, sigma 0.7), 90 of long dialogues (700, 0.9), 50 of medium ones (450,
                          0.5) (parts: arXiv 2304.14178, section 4.1)
    pairs                 45 and a caption (median 14, sigma 0.5); one image each

The medians and sigmas are assumptions, the proportions are published. Conversations longer than a
sequence are truncated, as in training.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from owl_jax import cli
from owl_jax.data.batch import SequenceShape
from owl_jax.data.conversations import Conversation
from owl_jax.data.packing import Packer, Row
from owl_jax.text.media_index import MediaLengths

_CONVERSATIONS = flags.DEFINE_integer(
    "conversations", 50_000, "of each distribution", lower_bound=1
)
_OPEN_ROWS = flags.DEFINE_integer("open_rows", 64, "packed sequences open at a time", lower_bound=1)

LENGTH, MEDIA, FRAME = 2048, 65, 45

# (share, median, sigma, images)
VISUAL = ((0.37, 330, 0.35, 1), (0.15, 170, 0.35, 1), (0.48, 250, 0.35, 1))
STAGE2 = (
    *((share * 150, median, sigma, 1) for share, median, sigma, _ in VISUAL),
    (102, 90, 0.7, 0),
    (90, 700, 0.9, 0),
    (50, 450, 0.5, 0),
)
PAIRS = ((1.0, 14, 0.5, 1),)

# Each with a suitable number of image slots per sequence.
DISTRIBUTIONS = {
    "visual instructions": (VISUAL, 6),
    "stage 2 of the paper": (STAGE2, 2),
    "pairs": (PAIRS, 17),
}


def draw(parts: Sequence[tuple[float, float, float, int]], count: int) -> list[Conversation]:
    """Conversations of random lengths; their tokens are placeholders."""
    random = np.random.default_rng(0)
    shares = np.array([share for share, *_ in parts])
    conversations = []
    for number, part in enumerate(random.choice(len(parts), count, p=shares / shares.sum())):
        _, median, sigma, images = parts[part]
        tokens = FRAME + MEDIA * images + round(random.lognormal(np.log(median), sigma))
        ids = np.zeros(min(tokens, LENGTH) + 1, np.int32)
        conversations.append(
            Conversation(number, ids, ids > 0, [b""] * images, [], False, f"drawn:{number}")
        )
    return conversations


def main(argv: list[str]) -> None:
    """Prints one table."""
    del argv
    print(f"{_CONVERSATIONS.value:,} conversations each, {_OPEN_ROWS.value} rows open")
    print(
        f"\n{'':<24}{'mean length':>12}{'row fill':>11}{'slots used':>12}{'in a row':>10}"
        f"{'useful tokens':>15}{'us each':>9}"
    )
    for name, (parts, slots) in DISTRIBUTIONS.items():
        conversations = draw(parts, _CONVERSATIONS.value)
        packer = Packer(
            SequenceShape(LENGTH, MediaLengths(MEDIA, MEDIA), 1, image_slots=slots),
            _OPEN_ROWS.value,
        )
        start = time.perf_counter()
        rows: list[Row] = [row for item in conversations if (row := packer.place(item))]
        seconds = time.perf_counter() - start
        used = np.mean([row.length for row in rows])
        alone = np.mean([item.length for item in conversations])
        print(
            f"{name:<24}{alone:>12.0f}{used / LENGTH:>11.1%}"
            f"{np.mean([row.images for row in rows]) / slots:>8.1%} of {slots:<2}"
            f"{np.mean([len(row.conversations) for row in rows]):>8.2f}"
            f"{used / alone:>13.2f} x{1e6 * seconds / len(conversations):>9.0f}"
        )


if __name__ == "__main__":
    cli.run(main)
