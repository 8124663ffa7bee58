"""Makes configs/demo/tokenizer, the small tokenizer of the demonstration, from its own text.

    python configs/demo/make_tokenizer.py configs/demo/tokenizer

The template's sentence, its marks, the places and the stock phrases of the questions are one piece
each: a short training should not spend its time on them. Rare pieces change their order with the
data set; a model keeps the tokenizer that it was trained with.
"""

import sys
from pathlib import Path

from owl_jax.data.scenes import PLACES
from owl_jax.data.synthetic import KINDS, SyntheticSource, iter_texts
from owl_jax.processing.conversation import SYSTEM
from owl_jax.processing.tokenizer import train_sentencepiece

VOCAB_SIZE = 768
RECORDS = 6000
PHRASES = (
    "The image shows",
    "The first image shows",
    "The second image shows",
    "The video shows",
    "Describe the image.",
    "What does the image show?",
    "List the objects in the image.",
    "What is in the image?",
    "What color is the",
    "What shape is the",
    "Where is the",
    "Where does the moving object",
    "How many",
    "are there?",
    "Are there more",
    "to the left of",
    "to the right of",
    "in the first image",
    "in the second image",
    "object at",
    "moving object",
    "The number of",
    "and the number of",
    "and the",
    "first image has",
    "second image has",
    "is a",
    "so yes",
    "so no",
)


def make_tokenizer(directory: Path) -> None:
    source = SyntheticSource(dict.fromkeys(KINDS, 1.0), size=RECORDS)
    train_sentencepiece(
        iter_texts(source),
        VOCAB_SIZE,
        directory / "tokenizer.model",
        whole=(SYSTEM, "\nHuman: ", "AI: ", "\n", *(f" {words}" for words in PLACES + PHRASES)),
    )


if __name__ == "__main__":
    make_tokenizer(Path(sys.argv[1]))
