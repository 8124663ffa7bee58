"""Opens the data of a config: sources, the stream of batches, the log of dropped records."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
from ml_collections import ConfigDict

from owl_jax.checkpoint.hub_directory import tokenizer_directory
from owl_jax.data.batch import SequenceShape
from owl_jax.data.conversations import Conversation
from owl_jax.data.decoding import Decoding
from owl_jax.data.drops import DropLog, Dropped
from owl_jax.data.mixture import WeightedSource, records_of_an_epoch, shares
from owl_jax.data.packing import Packer
from owl_jax.data.pipeline import BatchIterator, Reading, make_batches, tokenized
from owl_jax.data.sources.custom import CustomSource, name_of
from owl_jax.data.sources.dataset_hash import fingerprint
from owl_jax.data.sources.detect import open_source
from owl_jax.errors import UserError
from owl_jax.models.config import OwlConfig
from owl_jax.text.chat_template import ChatTemplate
from owl_jax.text.end_ids import read_end_ids
from owl_jax.text.formats import OWL
from owl_jax.text.formats.choose import choose_format
from owl_jax.text.formats.format import ConversationFormat
from owl_jax.text.tokenizer import Tokenizer, check_vocabulary, load_tokenizer
from owl_jax.text.turns import Turn
from owl_jax.training import config as settings

# Records packed to estimate the sequences of an epoch, to within about 2 %.
_SAMPLE = 2_000
_RECORDS_PER_OPEN_ROW = 32

# A conversation that identifies a format by how it is written.
_PROBE = (Turn("user", ("What?",)), Turn("assistant", ("An owl.",)))

# The keys of config.data that determine the batches.
_BATCH_KEYS = (
    "sequence_length",
    "image_slots",
    "video_slots",
    "frames",
    "pack",
    "open_rows",
    "augmentation",
    "unusual_images",
    "decoder",
)


@dataclass(frozen=True)
class TrainingData:
    """The opened data of a config.

    names, sources: the mixture.
    conversations: every conversation of the mixture by number; media are not decoded.
    batches: this process's shard.
    """

    names: Sequence[str]
    sources: Sequence[WeightedSource]
    tokenizer: Tokenizer
    shape: SequenceShape
    format: ConversationFormat
    conversations: grain.MapDataset[Conversation | Dropped]
    batches: BatchIterator
    drops: DropLog

    def close(self) -> None:
        """Stops threads and worker processes."""
        self.batches.close()


def open_data(
    config: ConfigDict,
    model: OwlConfig,
    workdir: Path | None = None,
    shard_index: int = 0,
    num_shards: int = 1,
    drops: DropLog | None = None,
) -> TrainingData:
    """Opens the data of a config.

    Args:
      workdir: receives the indices of large files, in `index/`, and `skipped.jsonl`.
      shard_index, num_shards: the shard of each batch that this process reads.
      drops: replaces the DropLog that writes `skipped.jsonl`.

    Raises UserError for missing or unusable data.
    """
    if config.batch_size % (num_shards * config.gradient_accumulation_steps):
        raise UserError(
            f"config.batch_size={config.batch_size} must be a multiple of {num_shards} data shards "
            f"times config.gradient_accumulation_steps={config.gradient_accumulation_steps}"
        )
    data = config.data
    index_dir = workdir / "index" if workdir else None
    mixture = settings.read_mixture(config)
    names = [
        name_of(entry.source) if isinstance(entry.source, CustomSource) else entry.source
        for entry in mixture
    ]
    sources = [
        WeightedSource(open_source(entry.source, entry.media_root, index_dir), entry.weight)
        for entry in mixture
    ]
    shape = settings.sequence_shape(config, model)
    directory = tokenizer_directory(settings.tokenizer_directory(config))
    tokenizer = load_tokenizer(directory)
    check_vocabulary(tokenizer, model.llm.vocab_size, directory)
    format = _open_format(model, directory, tokenizer)
    if drops is None:
        name = (
            "skipped.jsonl" if num_shards == 1 else f"skipped-{shard_index}-of-{num_shards}.jsonl"
        )
        drops = DropLog(data.max_dropped, workdir / name if workdir else None)
    batches = make_batches(
        sources,
        tokenizer,
        shape,
        Decoding(
            shape.image_size,
            shape.frames,
            settings.AUGMENTATIONS[data.augmentation],
            (config.seed, shard_index),
            data.unusual_images,
            data.decoder,
            model.resizing,
        ),
        config.batch_size // num_shards,
        config.seed,
        drops,
        _open_rows(config, sources, num_shards),
        Reading(data.threads, data.workers, shard_index, num_shards),
        _made_with(config, sources, tokenizer, shape, num_shards, format),
        format,
    )
    # Of all shards.
    conversations = tokenized(sources, tokenizer, shape, config.seed, format=format)
    return TrainingData(names, sources, tokenizer, shape, format, conversations, batches, drops)


def _open_format(model: OwlConfig, directory: Path, tokenizer: Tokenizer) -> ConversationFormat:
    """The conversation format to train on. Raises UserError if it cannot locate the answers."""
    ends = read_end_ids(directory, tokenizer.vocab_size)
    format = choose_format(model.conversation, directory, tokenizer, ends)
    if isinstance(format, ChatTemplate):
        format.check_masks()
    return format


def _open_rows(config: ConfigDict, sources: Sequence[WeightedSource], num_shards: int) -> int:
    """`data.open_rows`, or fewer for a small data set, so that open sequences do not mix epochs."""
    if not config.data.pack:
        return 0
    records = records_of_an_epoch(sources) // num_shards
    return max(1, min(config.data.open_rows, records // _RECORDS_PER_OPEN_ROW))


def _made_with(
    config: ConfigDict,
    sources: Sequence[WeightedSource],
    tokenizer: Tokenizer,
    shape: SequenceShape,
    num_shards: int,
    format: ConversationFormat,
) -> dict[str, Any]:
    """The settings that determine the batches, by name; a resume must have the same ones."""
    keys = ("seed", "batch_size", *(f"data.{key}" for key in _BATCH_KEYS))
    made_with = {f"config.{key}": operator.attrgetter(key)(config) for key in keys}
    made_with["config.model.vision.image_size"] = shape.image_size
    made_with["positions of a picture"] = shape.media.image
    if shape.media.video != shape.media.image:
        made_with["tokens of a video"] = shape.media.video
    made_with["number of processes that read data"] = num_shards
    if format != OWL:  # the only one of older releases
        written = hashlib.sha256(repr(format.pieces(_PROBE)).encode()).hexdigest()[:16]
        made_with["config.model.conversation"] = f"{format.name} ({written})"
    probe = tokenizer.encode("A picture of 2 owls, asleep. 猫头鹰")
    made_with["tokenizer"] = f"{tokenizer.vocab_size} pieces, {probe}"
    # Identify sources by content, not by path: data may be moved.
    for number, (item, share) in enumerate(zip(sources, shares(sources), strict=True)):
        described = f"{len(item.source)} records ({fingerprint(item.source)}), share {share}"
        made_with[f"source {number + 1}"] = described
    return made_with


def steps_of_epochs(config: ConfigDict, data: TrainingData) -> int:
    """Estimates the steps of `config.epochs` from the first records of the mixture.

    An epoch covers every record of every source at least once. The result is the same on every
    process and every start.
    """
    records = records_of_an_epoch(data.sources)
    sample = [data.conversations[number] for number in range(min(records, _SAMPLE))]
    kept = [item for item in sample if isinstance(item, Conversation)]
    rows = float(len(kept))
    if config.data.pack and kept:
        packer = Packer(data.shape, _open_rows(config, data.sources, 1))
        closed = [row for item in kept if (row := packer.place(item))]
        # Open sequences count in proportion to their length.
        length = sum(row.length for row in closed) / len(closed) if closed else data.shape.length
        rows = len(closed) + sum(row.length for row in packer.rows) / length
    return max(math.ceil(config.epochs * records * rows / len(sample) / config.batch_size), 1)
