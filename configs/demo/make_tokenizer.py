"""Makes configs/demo/tokenizer, the small tokenizer of the demonstration, from its own text.

    python configs/demo/make_tokenizer.py configs/demo/tokenizer

The template's sentence and its marks are one piece each: a short training should not spend its
time on them.
"""

import sys
from pathlib import Path

from owl_jax.data.synthetic import KINDS, SyntheticSource, iter_texts
from owl_jax.processing.conversation import SYSTEM
from owl_jax.processing.tokenizer import train_sentencepiece

VOCAB_SIZE = 768
RECORDS = 6000


def make_tokenizer(directory: Path) -> None:
    source = SyntheticSource(dict.fromkeys(KINDS, 1.0), size=RECORDS)
    train_sentencepiece(
        iter_texts(source),
        VOCAB_SIZE,
        directory / "tokenizer.model",
        whole=(SYSTEM, "\nHuman: ", "AI: ", "\n"),
    )


if __name__ == "__main__":
    make_tokenizer(Path(sys.argv[1]))
