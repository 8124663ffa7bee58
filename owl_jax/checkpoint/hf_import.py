"""The weights of Hugging Face directories, opened without reading them: of a family's model, and of
the parts that stage 1 starts from, a vision encoder and a plain language model.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import jax
from flax import linen as nn

from owl_jax.checkpoint import huggingface, schema
from owl_jax.checkpoint.preprocessor import with_preprocessor
from owl_jax.checkpoint.safetensors_writer import write_shards
from owl_jax.checkpoint.schema import CONFIG_FILE
from owl_jax.checkpoint.special_ids import special_ids
from owl_jax.checkpoint.tensors import TensorFiles, from_source, to_source
from owl_jax.checkpoint.torch_files import TorchFiles
from owl_jax.errors import UserError, listed, printable, shown
from owl_jax.files import check_regular, read_json
from owl_jax.models import vlm
from owl_jax.models.config import OwlConfig, id_problems
from owl_jax.models.families.mplug_owl import MPLUG_OWL, around
from owl_jax.models.weight_names import Row, without_prefix

_HEAD = "lm_head.weight"  # of every language model of transformers

AS_TRAINED = "as_trained"  # in config.json of either form

# Names of files that hold a whole model, the better first.
_KINDS: tuple[tuple[str, type[TensorFiles]], ...] = (
    ("model.safetensors", TensorFiles),
    ("pytorch_model.bin", TorchFiles),
)


@dataclass(frozen=True)
class Opened:
    """A model, or some branches of one, that lies in files.

    config: what it is; of a part, the defaults stand for the rest.
    params: its branches, a tree of `Stored` (checkpoint/lazy_arrays.py).
    as_trained: whether prompts are cut as in training (text/conversation.py): so for what
      owl_jax trained, whatever its form, and not for the released models.
    notes: what a person should know about it, a line each.
    files: where it is read from, if that is in the original's layout.
    nans: {parameter: elements that are no numbers} of what was read of one in our own form.
    """

    config: OwlConfig
    params: dict[str, Any]
    as_trained: bool = False
    notes: tuple[str, ...] = ()
    files: TensorFiles | None = field(default=None, compare=False)
    nans: Mapping[str, int] = field(default_factory=dict, compare=False)

    def tell(self, directory: Path) -> None:
        """Says on stderr what there is to know, once everything has been read."""
        if jax.process_index() > 0:
            return
        for note in self.notes:
            print(printable(f"note: {directory}: {note}"), file=sys.stderr, flush=True)
        nans = {**self.nans, **(self.files.nans if self.files else {})}
        if nans:
            print(
                f"warning: {directory}: {sum(nans.values())} elements of {len(nans)} tensors are "
                f"NaN, the first in {printable(min(nans))}; the model will answer with nonsense",
                file=sys.stderr,
                flush=True,
            )
        infinite = self.files.infinite if self.files else {}
        if infinite:
            first = printable(min(infinite))
            print(
                f"warning: {directory}: {sum(infinite.values())} elements of {len(infinite)} "
                f"float16 tensors are not finite, the first in {first}; the model will "
                "answer with nonsense. Take the weights in bfloat16 or float32",
                file=sys.stderr,
                flush=True,
            )


def abstract_params(config: OwlConfig) -> dict[str, Any]:
    """Shapes of the whole tree without memory."""
    return nn.meta.unbox(vlm.abstract_params(config))


def open_files(directory: Path) -> TensorFiles:
    """The tensors of a directory: safetensors, or what PyTorch wrote; one file or an index's.

    Raises UserError if there are none, the index names a file that is not there or that has not
    what the index says, or a file is damaged.
    """
    for name, kind in _KINDS:
        index = directory / f"{name}.index.json"
        if index.exists():
            return _open_indexed(index, kind)
        if (directory / name).exists():
            return kind([directory / name])
    raise UserError(
        f"{directory}: no model.safetensors, no pytorch_model.bin and no index of shards; is it a "
        "model?"
    )


def _open_indexed(index: Path, kind: type[TensorFiles]) -> TensorFiles:
    values = read_json(index)
    if not isinstance(values.get("weight_map"), dict) or not values["weight_map"]:
        raise UserError(f"{index}: no weight_map; expected the index of a model's shards")
    weight_map = schema.convert(index, values, schema.ShardIndex).weight_map
    names = sorted(set(weight_map.values()))
    if outside := [name for name in names if _is_no_plain_name(name)]:
        raise UserError(
            f"{index} names {listed(map(shown, outside))}; expected names of files beside it"
        )
    if missing := [name for name in names if not (index.parent / name).exists()]:
        raise UserError(f"{index} names {listed(missing)}, which is not there")
    for name in names:
        try:
            check_regular(index.parent / name)
        except OSError as error:
            raise UserError(f"{index.parent / name}: {error.strerror}; expected weights") from None
    files = kind([index.parent / name for name in names])
    if lost := sorted(weight_map.keys() - files.names()):
        raise UserError(
            f"{index} names tensors that its files do not hold ({len(lost)}): {listed(lost)}"
        )
    return files


def _is_no_plain_name(name: str) -> bool:
    return name in (".", "..") or any(part in name for part in ("/", "\\", "\0"))


def open_family(directory: Path) -> Opened:
    """Opens a whole model. Raises UserError that lists every tensor that does not fit."""
    # Before the weights: a directory of something else is told by its config.json.
    huggingface.read_config(directory)
    files = open_files(directory)
    config = huggingface.read_config(directory, files.names())
    config = dataclasses.replace(config, vision=with_preprocessor(config.vision, directory))
    values = read_json(directory / CONFIG_FILE)
    family = huggingface.family_of(values)
    rows = family.weight_rows(config)
    config, notes = _with_found_words(config, rows, files, directory)
    params = from_source(rows, files, abstract_params(config), directory, family.tied(config))
    as_trained = schema.convert(directory / CONFIG_FILE, values, schema.Trained).as_trained
    return Opened(config, params, as_trained, notes, files)


def open_vision(directory: Path) -> Opened:
    """Opens a vision encoder, alone or in a model that it is a tower of, as the subtree `vision`.

    Raises UserError that lists every tensor that does not fit.
    """
    vision = huggingface.read_vision_config(directory)
    vision = with_preprocessor(vision, directory)
    config = around(vision)
    files = open_files(directory)
    rows = vision.weight_rows()
    if not any(name.startswith("vision_model.") for name in files.names()):
        rows = without_prefix(rows, "vision_model.")
    params = from_source(rows, files, abstract_params(config), directory, {}, vision.ignores)
    unused = sum(map(vision.ignores, files.names()))
    note = f"{vision.OTHER_PARTS} ({unused} tensors) are not used"
    return Opened(config, params, notes=(note,) if unused else (), files=files)


def open_language(directory: Path) -> Opened:
    """Opens a plain language model as the subtree `llm`.

    Raises UserError that lists every tensor that does not fit.
    """
    llm = huggingface.read_language_config(directory)
    files = open_files(directory)
    rows, tied = llm.weight_rows(), dict(llm.TIED)
    # What was saved without its head lacks the prefix of what lies below it.
    if not any(name.startswith(llm.BASE_PREFIX) for name in files.names()):
        rows = without_prefix(rows, llm.BASE_PREFIX)
    embedding = next(row.source for row in rows if row.target.endswith("/embedding"))
    if tied:
        tied = dict.fromkeys(tied, embedding)
    elif read_json(directory / CONFIG_FILE).get("tie_word_embeddings"):
        tied = {_HEAD: embedding}
        rows = [
            dataclasses.replace(row, source=embedding) if row.source == _HEAD else row
            for row in rows
        ]
    config, notes = _with_found_words(around(llm), rows, files, directory)
    params = from_source(rows, files, abstract_params(config), directory, tied)
    return Opened(config, params, notes=notes, files=files)


def write_family(
    config: OwlConfig,
    params: Mapping[str, Any],
    directory: Path,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> dict[str, str]:
    """Writes safetensors files with the original's names. An adapter must be merged before.

    Returns: {name of a file: its SHA-256}.
    """
    return write_shards(
        to_source(MPLUG_OWL.weight_rows(config), params), directory, progress=progress
    )


def _with_found_words(
    config: OwlConfig, rows: list[Row], files: TensorFiles, directory: Path
) -> tuple[OwlConfig, tuple[str, ...]]:
    """The config with the embedding's vocabulary and the tokenizer's special ids; notes on both.

    Raises UserError for an id of config.json that is none of the vocabulary's.
    """
    config, notes = _with_found_vocabulary(config, rows, files)
    if problems := id_problems(config.llm):
        raise UserError(f"{directory / 'config.json'}: {'; '.join(problems)}")
    found: dict[str, Any] = {
        name: value
        for name, value in special_ids(directory).items()
        if 0 <= value < config.llm.vocab_size
    }
    said = {name: getattr(config.llm, name) for name in found}
    if found == said:
        return config, notes
    note = (
        f"config.json says {_ids_as_text(said)}, the tokenizer {_ids_as_text(found)}; the "
        "tokenizer's count"
    )
    llm = dataclasses.replace(cast(Any, config.llm), **found)
    return dataclasses.replace(config, llm=llm), (*notes, note)


def _ids_as_text(ids: Mapping[str, int]) -> str:
    return " and ".join(f"{name} {value}" for name, value in ids.items())


def _with_found_vocabulary(
    config: OwlConfig, rows: list[Row], files: TensorFiles
) -> tuple[OwlConfig, tuple[str, ...]]:
    """The config with as many words as the embedding has: people add words to a model, and its
    config.json does not always follow."""
    embedding = next(row.source for row in rows if row.target.endswith("/embedding"))
    if embedding not in files.names() or len(files.shape(embedding)) != 2:
        return config, ()
    found, said = files.shape(embedding)[0], config.llm.vocab_size
    if found == said:
        return config, ()
    llm = dataclasses.replace(cast(Any, config.llm), vocab_size=found)
    note = f"config.json says {said} words, the embedding has {found}; {found} it is"
    return dataclasses.replace(config, llm=llm), (note,)
