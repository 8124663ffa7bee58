"""Shows the data of a config: python -m owl_jax.data.preview --config=FILE --output=preview.html

The page shows the mixture, the lengths of its records, dropped records with reasons, and the first
batches as the model gets them. It needs no weights. --config.KEY=VALUE overrides a key of the
config.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from owl_jax import cli
from owl_jax.errors import UserError
from owl_jax.files import write_whole

if TYPE_CHECKING:
    from owl_jax.preview.page import Sizes
    from owl_jax.training.data import TrainingData

CONFIG = cli.define_config_flag()
OUTPUT = flags.DEFINE_string("output", "preview.html", "the page to write")
BATCHES = flags.DEFINE_integer("batches", 2, "batches to show", lower_bound=1)
ROWS = flags.DEFINE_integer("rows", 16, "packed sequences to show of each batch", lower_bound=1)
RECORDS = flags.DEFINE_integer(
    "records", 2000, "records of the mixture to measure, at most one epoch", lower_bound=1
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "directory for the indices of large files, such as a training run's workdir"
)

# More than any record has, so that no record is cut, or dropped for too many media.
_UNLIMITED = 1 << 40


def main(_: list[str]) -> None:
    """Opens the data as in training, reads the first batches, and writes the page."""
    # Imported here, since they import JAX, which --help does not need.
    from owl_jax.data.drops import DropLog
    from owl_jax.data.mixture import shares
    from owl_jax.preview.page import Head, SourceInfo, preview_page
    from owl_jax.training import config as settings
    from owl_jax.training.data import open_data

    config, output = CONFIG.value, Path(OUTPUT.value)
    settings.check_values(config)
    tokenizer = settings.tokenizer_directory(config)
    if not tokenizer:
        raise UserError(
            "config.tokenizer is empty; give the directory of a tokenizer, as in "
            "--config.tokenizer=DIR"
        )
    # Only as many sequences as are shown: a batch for a pod would take minutes.
    config.batch_size, config.gradient_accumulation_steps = ROWS.value, 1
    drops = DropLog(1.0)  # no limit: the page shows all dropped records
    workdir = Path(WORKDIR.value) if WORKDIR.value else None
    batches, fault = [], None
    model = settings.read_model(config)
    with closing(open_data(config, model, workdir, drops=drops)) as data:
        sizes = _measure(data, config.seed, RECORDS.value)
        try:
            for _number in range(BATCHES.value):
                batches.append(next(data.batches))
        except UserError as error:  # no record is usable: the page says why
            fault = error
    sources = [
        SourceInfo(name, len(item.source), float(share))
        for name, item, share in zip(data.names, data.sources, shares(data.sources), strict=True)
    ]
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    head = Head(name, tokenizer, data.shape, sources, config.data.max_dropped)
    html = preview_page(head, batches, data.tokenizer, drops, sizes, ROWS.value)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, html)
    except OSError as error:
        raise UserError(f"--output={output}: cannot be written ({error.strerror})") from None
    cli.say(f"preview: {output}")
    if fault:
        raise fault


def _measure(data: TrainingData, seed: int, count: int) -> Sizes:
    """The sizes of the first usable records of the mixture, at most one epoch."""
    from owl_jax.data.conversations import Conversation
    from owl_jax.data.mixture import records_of_an_epoch
    from owl_jax.data.pipeline import tokenized
    from owl_jax.preview.page import Sizes
    from owl_jax.text.conversation import longest_text

    shape = replace(data.shape, length=_UNLIMITED, image_slots=_UNLIMITED, video_slots=_UNLIMITED)
    most = longest_text(data.shape.length)  # also drops the texts that training drops
    whole = tokenized(
        data.sources, data.tokenizer, shape, seed, most_characters=most, format=data.format
    )
    items = (whole[number] for number in range(min(count, records_of_an_epoch(data.sources))))
    kept = [item for item in items if isinstance(item, Conversation)]
    return Sizes(
        [item.length for item in kept],
        [len(item.images) for item in kept],
        [len(item.videos) for item in kept],
    )


if __name__ == "__main__":
    cli.run(main)
