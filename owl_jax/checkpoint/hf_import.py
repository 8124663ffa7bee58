"""Opens the weights of Hugging Face directories, lazily: a family's complete model, or the parts
that stage 1 starts from (a vision encoder, a plain language model).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
from flax import linen as nn

from owl_jax.checkpoint import huggingface, schema
from owl_jax.checkpoint.preprocessor import vision_with_preprocessor, with_preprocessor
from owl_jax.checkpoint.recognition import refuse_other_kind
from owl_jax.checkpoint.safetensors_writer import write_shards
from owl_jax.checkpoint.schema import CONFIG_FILE, WEIGHTS_FILES
from owl_jax.checkpoint.special_ids import special_ids
from owl_jax.checkpoint.tensors import TensorFiles, from_source, to_source
from owl_jax.checkpoint.torch_files import TorchFiles
from owl_jax.errors import UserError, listed, printable, shown
from owl_jax.files import check_regular, read_json
from owl_jax.hub.names import recorded_name
from owl_jax.media.resizing import SQUASH
from owl_jax.models import vlm
from owl_jax.models.config import OwlConfig, id_problems, read_conversation
from owl_jax.models.families import Family, family_of
from owl_jax.models.families.mplug_owl import around
from owl_jax.models.parts import LanguagePart, VisionPart, faults_told
from owl_jax.models.weight_names import Row, without_prefix
from owl_jax.text.chat_template import CHAT_TEMPLATE, has_chat_template
from owl_jax.text.formats import OWL

AS_TRAINED = "as_trained"  # key in config.json of either format
_CONVERSATION, _RESIZING = "owl_jax_conversation", "owl_jax_resizing"  # keys in a family's

# Files of a complete model, in order of preference.
_KINDS: tuple[tuple[str, type[TensorFiles]], ...] = tuple(
    zip(WEIGHTS_FILES, (TensorFiles, TorchFiles), strict=True)
)


@dataclass(frozen=True)
class Opened:
    """A model in files, or some subtrees of one.

    config: the model's; if only one part was opened, the other parts have default values.
    params: a tree of `LazyArray`s (checkpoint/lazy_arrays.py).
    as_trained: whether prompts are tokenised as in training (text/conversation.py): true for models
      that owl_jax trained, in either format, and false for the released models.
    notes: lines for the user.
    files: the source, if it is a Hugging Face directory.
    nans: {parameter: count of NaNs} read so far, if the source is in our own format.
    tower: the vision tower, if it was read from another directory.
    """

    config: OwlConfig
    params: dict[str, Any]
    as_trained: bool = False
    notes: tuple[str, ...] = ()
    files: TensorFiles | None = field(default=None, compare=False)
    nans: Mapping[str, int] = field(default_factory=dict, compare=False)
    tower: Opened | None = field(default=None, compare=False)

    def print_notes(self, directory: Path) -> None:
        """Prints notes and warnings on stderr; call it after the weights are read."""
        if jax.process_index() > 0:
            return
        name = recorded_name(directory)
        if self.tower:
            self.tower.print_notes(directory)
        for note in self.notes:
            print(printable(f"note: {name}: {note}"), file=sys.stderr, flush=True)
        nans = {**self.nans, **(self.files.nans if self.files else {})}
        if nans:
            print(
                f"warning: {name}: {sum(nans.values())} elements of {len(nans)} tensors are "
                f"NaN, the first in {printable(min(nans))}; the model will give nonsense",
                file=sys.stderr,
                flush=True,
            )
        infinite = self.files.infinite if self.files else {}
        if infinite:
            first = printable(min(infinite))
            print(
                f"warning: {name}: {sum(infinite.values())} elements of {len(infinite)} "
                f"float16 tensors are not finite, the first in {first}; the model will "
                "give nonsense. Use weights in bfloat16 or float32",
                file=sys.stderr,
                flush=True,
            )


def abstract_params(config: OwlConfig) -> dict[str, Any]:
    """The whole tree as ShapeDtypeStructs."""
    return nn.meta.unbox(vlm.abstract_params(config))


def open_files(directory: Path) -> TensorFiles:
    """The tensors of a directory: one safetensors or PyTorch file, or those of an index.

    Raises UserError if there are none, if a file or a tensor of the index is missing, or if a file
    is damaged.
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
        raise UserError(f"{index}: no weight_map; expected the index of a sharded model")
    weight_map = schema.convert(index, values, schema.ShardIndex).weight_map
    names = sorted(set(weight_map.values()))
    if outside := [name for name in names if _is_path(name)]:
        raise UserError(
            f"{index} names {listed(map(shown, outside))}; expected names of files beside it"
        )
    if missing := [name for name in names if not (index.parent / name).exists()]:
        raise UserError(f"{index} names {listed(missing)}, which does not exist")
    for name in names:
        try:
            check_regular(index.parent / name)
        except OSError as error:
            raise UserError(f"{index.parent / name}: {error.strerror}; expected weights") from None
    files = kind([index.parent / name for name in names])
    if lost := sorted(weight_map.keys() - files.names()):
        raise UserError(
            f"{index} names tensors that its files do not have ({len(lost)}): {listed(lost)}"
        )
    return files


def _is_path(name: str) -> bool:
    return name in (".", "..") or any(part in name for part in ("/", "\\", "\0"))


def open_family(directory: Path) -> Opened:
    """Opens a complete model. Raises UserError, which lists every tensor that does not fit."""
    # Before the weights: if the directory is not a model, config.json gives the better error.
    huggingface.read_config(directory)
    files = open_files(directory)
    config = huggingface.read_config(directory, files.names())
    values = read_json(directory / CONFIG_FILE)
    family = family_of(values, directory / CONFIG_FILE)
    if not family.marks(files.names()):
        refuse_other_kind(family.model_type, files.names(), directory)
    tower = huggingface.tower_directory(directory)
    config = with_preprocessor(config, tower or directory, family.reads_resizing)
    rename = family.renaming(files.names())
    rows = [
        dataclasses.replace(row, source=rename(row.source)) for row in family.weight_rows(config)
    ]
    tied = {rename(copy): rename(original) for copy, original in family.tied(config).items()}
    config, notes = _with_found_ids(config, rows, files, directory)
    abstract, apart = abstract_params(config), None
    is_apart = not any(name.startswith(family.tower_prefix) for name in files.names())
    if tower and config.vision and is_apart:
        rows = [row for row in rows if not row.target.startswith("vision/")]
        apart = open_vision(tower)
    ignored = partial(family.ignores, config)
    params = _read_tensors(rows, files, abstract, directory, family.model_type, tied, ignored)
    if config.vision and apart:
        params["vision"] = config.vision.taken_from(apart.params["vision"])
    trained = schema.convert(directory / CONFIG_FILE, values, schema.Trained)
    config = _with_own_keys(config, trained, directory)
    return Opened(config, params, trained.as_trained, notes, files, tower=apart)


def _read_tensors(
    rows: list[Row],
    files: TensorFiles,
    abstract: Mapping[str, Any],
    directory: Path,
    kind: str,
    tied: Mapping[str, str] | None = None,
    ignored: Callable[[str], bool] = lambda name: False,
) -> dict[str, Any]:
    """`from_source`; if the weights are another model's, the error names it, not each tensor.

    kind: model_type of the expected one.
    """
    try:
        return from_source(rows, files, abstract, directory, tied, ignored)
    except UserError:
        refuse_other_kind(kind, files.names(), directory)
        raise


def open_vision(directory: Path) -> Opened:
    """Opens a vision encoder, alone or as a tower of a larger model, as the subtree `vision`.

    Raises UserError that lists every tensor that does not fit.
    """
    vision = huggingface.read_vision_config(directory)
    vision = vision_with_preprocessor(vision, directory)
    with faults_told(vision):
        return _open_vision(vision, directory)


def _open_vision(vision: VisionPart, directory: Path) -> Opened:
    config = around(vision)
    files = open_files(directory)
    rows = vision.weight_rows()
    if not any(name.startswith("vision_model.") for name in files.names()):
        rows = without_prefix(rows, "vision_model.")
    abstract = abstract_params(config)
    kind = read_json(directory / CONFIG_FILE).get("model_type", vision.architecture)
    params = _read_tensors(rows, files, abstract, directory, kind, ignored=vision.ignores)
    unused = sum(map(vision.ignores, files.names()))
    note = f"{vision.OTHER_PARTS} ({unused} tensors) are not used"
    return Opened(config, params, notes=(note,) if unused else (), files=files)


def open_language(directory: Path) -> Opened:
    """Opens a plain language model: a model that takes text only, with the subtree `llm`.

    Raises UserError that lists every tensor that does not fit.
    """
    llm = huggingface.read_language_config(directory)
    with faults_told(llm):
        return _open_language(llm, directory)


def _open_language(llm: LanguagePart, directory: Path) -> Opened:
    files = open_files(directory)
    rows, tied = llm.weight_rows(), llm.tied_tensors
    # A model saved without its head has no prefix.
    if not any(name.startswith(llm.BASE_PREFIX) for name in files.names()):
        rows = without_prefix(rows, llm.BASE_PREFIX)
    embedding = next(row.source for row in rows if row.target.endswith("/embedding"))
    tied = dict.fromkeys(tied, embedding)
    config = OwlConfig(None, None, llm, conversation=_conversation_of(directory))
    config, notes = _with_found_ids(config, rows, files, directory)
    abstract = abstract_params(config)
    params = _read_tensors(rows, files, abstract, directory, llm.architecture, tied)
    values = read_json(directory / CONFIG_FILE)
    trained = schema.convert(directory / CONFIG_FILE, values, schema.Trained)
    config = _with_own_keys(config, trained, directory)
    return Opened(config, params, trained.as_trained, notes, files)


def own_keys(
    config: OwlConfig, family: Family, as_trained: bool, companions: Path | None
) -> dict[str, Any]:
    """The keys of schema.Trained for the config.json of a model of the family.

    companions: the directory whose tokenizer files are copied to the model.
    """
    keys: dict[str, Any] = {AS_TRAINED: True} if as_trained else {}
    usual = family.conversation or _conversation_of(companions)
    if config.conversation != usual:
        keys[_CONVERSATION] = config.to_dict()["conversation"]
    if family.reads_resizing or family.tower or config.resizing != SQUASH:
        keys[_RESIZING] = dataclasses.asdict(config.resizing)
    return keys


def _conversation_of(directory: Path | None) -> str:
    """The conversation format of a plain language model."""
    return CHAT_TEMPLATE if directory and has_chat_template(directory) else OWL.name


def _with_own_keys(config: OwlConfig, trained: schema.Trained, directory: Path) -> OwlConfig:
    """The config with the conversation format and the resizing that owl_jax recorded, if any."""
    if not config.conversation:
        config = dataclasses.replace(config, conversation=_conversation_of(directory))
    if trained.owl_jax_resizing is not None:
        config = dataclasses.replace(config, resizing=trained.owl_jax_resizing)
    if trained.owl_jax_conversation is None:
        return config
    try:
        conversation = read_conversation(trained.owl_jax_conversation)
    except TypeError as error:
        raise UserError(f"{directory / CONFIG_FILE}: {error}") from None
    return dataclasses.replace(config, conversation=conversation)


def write_family(
    family: Family,
    config: OwlConfig,
    params: Mapping[str, Any],
    directory: Path,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> dict[str, str]:
    """Writes safetensors files with the family's names. Any adapter must be merged first.

    Returns: {name of a file: its SHA-256}.
    """
    rows = family.weight_rows(config)
    return write_shards(to_source(rows, params), directory, progress=progress)


def _with_found_ids(
    config: OwlConfig, rows: list[Row], files: TensorFiles, directory: Path
) -> tuple[OwlConfig, tuple[str, ...]]:
    """Takes the vocabulary size from the embedding and special ids from the tokenizer; adds notes.

    Raises UserError for an id of config.json outside the vocabulary.
    """
    config, notes = _with_found_vocabulary(config, rows, files)
    values = read_json(directory / CONFIG_FILE)
    text = values.get("text_config")
    section = text if isinstance(text, dict) else values
    eos = section.get("eos_token_id")
    several = eos if isinstance(eos, list) and len(eos) > 1 else []
    if several:
        notes = (
            *notes,
            f"config.json has eos_token_id {shown(eos)}; each of them ends an answer",
        )
    if problems := id_problems(config.llm):
        raise UserError(f"{directory / 'config.json'}: {'; '.join(problems)}")
    found: dict[str, Any] = {
        name: value
        for name, value in special_ids(directory).items()
        if 0 <= value < config.llm.vocab_size
    }
    # A key that the file lacks, or that is null, says nothing that could be wrong.
    said = [name for name in found if section.get(name) is not None]
    in_config = {name: getattr(config.llm, name) for name in said}
    llm = dataclasses.replace(cast(Any, config.llm), **found)
    config = dataclasses.replace(config, llm=llm)
    if found.get("eos_token_id") in several:
        in_config["eos_token_id"] = found["eos_token_id"]
    in_tokenizer = {name: found[name] for name in in_config}
    if in_tokenizer == in_config:
        return config, notes
    note = (
        f"config.json says {_ids_as_text(in_config)}, the tokenizer {_ids_as_text(in_tokenizer)}; "
        "using the tokenizer's"
    )
    return config, (*notes, note)


def _ids_as_text(ids: Mapping[str, int]) -> str:
    return " and ".join(f"{name} {value}" for name, value in ids.items())


def _with_found_vocabulary(
    config: OwlConfig, rows: list[Row], files: TensorFiles
) -> tuple[OwlConfig, tuple[str, ...]]:
    """Takes the vocabulary size from the embedding: people add tokens to a model without updating
    its config.json."""
    embedding = next(row.source for row in rows if row.target.endswith("/embedding"))
    if embedding not in files.names() or len(files.shape(embedding)) != 2:
        return config, ()
    found, in_config = files.shape(embedding)[0], config.llm.vocab_size
    if found == in_config:
        return config, ()
    llm = dataclasses.replace(cast(Any, config.llm), vocab_size=found)
    note = f"config.json says vocab_size {in_config}, the embedding has {found} rows; using {found}"
    return dataclasses.replace(config, llm=llm), (note,)
