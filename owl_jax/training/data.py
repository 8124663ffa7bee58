"""What a config's `data` describes, opened: sources, the stream of batches, what it drops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grain
from ml_collections import ConfigDict

from owl_jax.data.batch import RowShape
from owl_jax.data.conversations import Conversation
from owl_jax.data.decoding import Decoding
from owl_jax.data.drops import DropLog, Dropped
from owl_jax.data.mixture import WeightedSource, records_of_an_epoch
from owl_jax.data.packing import Packer
from owl_jax.data.pipeline import BatchIterator, Reading, make_batches, tokenized
from owl_jax.data.sources.open import open_source
from owl_jax.data.synthetic import SyntheticSource
from owl_jax.errors import UserError
from owl_jax.models.config import OwlConfig
from owl_jax.processing.tokenizer import Tokenizer, load_tokenizer
from owl_jax.training import config as settings

# Of a data set, to tell how many rows an epoch of it makes: within about 2 % of the truth.
_SAMPLE = 2_000


@dataclass(frozen=True)
class TrainingData:
    """names, sources: the mixture. conversations: all of it, endless, by number, not decoded."""

    names: Sequence[str]
    sources: Sequence[WeightedSource]
    tokenizer: Tokenizer
    shape: RowShape
    conversations: grain.MapDataset[Conversation | Dropped]
    batches: BatchIterator
    drops: DropLog

    def close(self) -> None:
        """Lets go of threads and worker processes."""
        self.batches.close()


def open_data(
    config: ConfigDict,
    model: OwlConfig,
    workdir: Path | None = None,
    part: int = 0,
    parts: int = 1,
    drops: DropLog | None = None,
) -> TrainingData:
    """Opens the data of a config.

    Args:
      workdir: keeps the indices of large files, in `index/`, and `skipped.jsonl`.
      part, parts: which rows of each batch this process reads (parallel/sharding.py, `own_rows`).
      drops: counts what is dropped, instead of one that writes `skipped.jsonl`.

    Raises UserError for missing or unusable data.
    """
    if config.batch_size % (parts * config.accumulate):
        raise UserError(
            f"config.batch_size={config.batch_size} must be a multiple of {parts} parts of the "
            f"data times config.accumulate={config.accumulate}"
        )
    data = config.data
    index_dir = workdir / "index" if workdir else None
    mixture = settings.read_mixture(config)
    names = [part.source for part in mixture]
    sources = [
        WeightedSource(open_source(part.source, part.media_root, index_dir), part.weight)
        for part in mixture
    ]
    if data.synthetic:
        kinds = data.synthetic.to_dict()
        source = SyntheticSource(kinds, size=data.synthetic_size, seed=config.seed)
        names.append("synthetic")
        sources.append(WeightedSource(source, float(sum(kinds.values()))))
    shape = RowShape(
        data.length,
        model.media_length,
        model.vision.image_size,
        data.image_slots,
        data.video_slots,
        data.frames,
    )
    tokenizer = load_tokenizer(settings.tokenizer_directory(config))
    if drops is None:
        name = "skipped.jsonl" if parts == 1 else f"skipped-{part}-of-{parts}.jsonl"
        drops = DropLog(data.max_dropped, workdir / name if workdir else None)
    batches = make_batches(
        sources,
        tokenizer,
        shape,
        Decoding(
            shape.image_size,
            shape.frames,
            settings.AUGMENTATIONS[data.augmentation],
            config.seed,
            data.unusual_images,
            data.decoder,
        ),
        config.batch_size // parts,
        config.seed,
        drops,
        data.open_rows if data.pack else 0,
        Reading(data.threads, data.workers, part, parts),
    )
    conversations = tokenized(sources, tokenizer, shape, config.seed)
    return TrainingData(names, sources, tokenizer, shape, conversations, batches, drops)


def steps_of_epochs(config: ConfigDict, data: TrainingData) -> int:
    """Steps that `config.epochs` take: an estimate from the first records of the mixture.

    An epoch is over when every record of every source has come. The same on every process, and on
    every start with the same data.
    """
    records = records_of_an_epoch(data.sources)
    sample = [data.conversations[number] for number in range(min(records, _SAMPLE))]
    kept = [item for item in sample if isinstance(item, Conversation)]
    rows = float(len(kept))
    if config.data.pack and kept:
        packer = Packer(data.shape, config.data.open_rows)
        closed = [row for item in kept if (row := packer.place(item))]
        # Open rows count as far as they are filled, or will be.
        length = sum(row.length for row in closed) / len(closed) if closed else data.shape.length
        rows = len(closed) + sum(row.length for row in packer.rows) / length
    return max(math.ceil(config.epochs * records * rows / len(sample) / config.batch_size), 1)
