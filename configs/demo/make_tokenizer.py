"""Trains configs/demo/tokenizer, the small tokenizer of the demonstration, on its own text.

    python configs/demo/make_tokenizer.py configs/demo/tokenizer

The system sentence, the markers, the places, the objects' names and the stock phrases of the
questions are one piece each, so that a short training run need not learn to spell them. The ids of
rare pieces depend on the data set, so a model must keep the tokenizer that it was trained with.
"""

import sys
from pathlib import Path

from owl_jax.demo.dialogues import KINDS
from owl_jax.demo.scenes import COLORS, COUNTS, PLACES, SHAPES
from owl_jax.demo.synthetic import SyntheticSource, iter_texts
from owl_jax.text.tokenizer import train_sentencepiece
from owl_jax.text.turns import SYSTEM

VOCAB_SIZE = 768
RECORDS = 6000
NAMES = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
OPENINGS = (
    "Describe the image.",
    "Describe the video.",
    "What does the image show?",
    "What does the video show?",
    "List the objects in the image.",
    "What is in the image?",
    "What color is the",
    "What shape is the",
    "Where is the",
    "Where does the moving object",
    "Which way does the",
    "Which image has more objects?",
    "How many",
    "Are there more",
    "Is the",
    "Do both images have a",
    "The image shows",
    "The first image shows",
    "The second image shows",
    "The video shows",
    "The number of",
    "The first image has",
    "The second image has",
    "The moving object is",
    "It starts at",
    "It stops at",
    "What is the capital of",
    "Name the capital of",
    "What is the opposite of",
    "Name the opposite of",
    "Which day comes after",
    "Name the day after",
    "Which month comes after",
    "Name the month after",
    "Name the young of a",
    "What is a young",
)
PHRASES = (
    "are there?",
    "objects than",
    "objects are there?",
    "to the left of the",
    "to the right of the",
    "above the",
    "below the",
    "in the first image",
    "in the second image",
    "does the first image have?",
    "does the second image have?",
    "object at",
    "moving object",
    "and the number of",
    "and the second image has",
    "and the",
    "is at",
    "is a",
    "The",
    *map(str, range(max(COUNTS) + 1)),
)
ENDINGS = (", so yes.", ", so no.")


def make_tokenizer(directory: Path) -> None:
    source = SyntheticSource(dict.fromkeys(KINDS, 1.0), size=RECORDS)
    # The tokenizer sees a space before every stretch of text (text/conversation.py).
    words = [f" {words}" for words in (SYSTEM, *OPENINGS, *PLACES, *NAMES, *PHRASES)]
    train_sentencepiece(
        iter_texts(source),
        VOCAB_SIZE,
        directory / "tokenizer.model",
        whole=("\nHuman: ", "AI: ", "\n", *words, *ENDINGS),
    )


if __name__ == "__main__":
    make_tokenizer(Path(sys.argv[1]))
