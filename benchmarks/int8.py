"""Effect of int8 weights on the answers of a trained model.

    python benchmarks/int8.py --model=runs/demo/stage2/model [--positions=256]

Takes held-out images with questions and true answers from the demonstration's data set. Compares
float32 with int8 weights: the most likely token at each position of the answer, and the logits.
"""

from __future__ import annotations

import numpy as np
from absl import flags

import owl_jax
from owl_jax import cli
from owl_jax.demo.synthetic import SyntheticSource
from owl_jax.errors import UserError
from owl_jax.media.image import preprocess_image
from owl_jax.text.conversation import tokenize_conversation

_MODEL = flags.DEFINE_string("model", "runs/demo/stage2/model", "a model of `make demo`")
_POSITIONS = flags.DEFINE_integer("positions", 256, "of answers", lower_bound=1)


def main(argv: list[str]) -> None:
    """Prints the number of equal tokens and the relative distance of the logits."""
    del argv
    try:
        exact = owl_jax.load(_MODEL.value, dtype="float32")
    except UserError as error:
        print(f"nothing to compare, run `make demo` first: {error}")
        return
    narrow = owl_jax.load(_MODEL.value, dtype="int8")
    config, tokenizer = exact.config, exact.tokenizer
    equal, positions, distance, norm = 0, 0, 0.0, 0.0
    for record in SyntheticSource({"vqa": 1.0}, split="heldout", size=10_000, seed=1):
        if positions >= _POSITIONS.value:
            break
        row = tokenize_conversation(record["text"], tokenizer, config.media_lengths(), 512)
        pixels = np.stack(
            [preprocess_image(image, config.vision.image_size) for image in record["images"]]
        )
        logits = [
            np.asarray(owl.logits(row.input_ids[None], images=pixels))[0] for owl in (exact, narrow)
        ]
        answered = np.flatnonzero(row.loss_mask[1:])[: _POSITIONS.value - positions]
        a, b = (part[answered] for part in logits)
        equal += int((a.argmax(-1) == b.argmax(-1)).sum())
        positions += len(answered)
        distance += float(np.square(a - b).sum())
        norm += float(np.square(a).sum())
    print(f"most likely token equal at {equal} of {positions} positions")
    print(f"logits: {100 * (distance / norm) ** 0.5:.2f} % relative L2")


if __name__ == "__main__":
    cli.run(main)
