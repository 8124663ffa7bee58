"""Every key of a training config, with its default and meaning. Configs start from `base_config`.

A config is a locked ml_collections.ConfigDict: --config.KEY=VALUE overrides a key, and a key that
is not here is an error.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, FieldReference

from owl_jax.data.batch import SequenceShape
from owl_jax.data.sources.custom import CustomSource
from owl_jax.data.sources.detect import is_missing
from owl_jax.errors import UserError
from owl_jax.former_keys import replacement_of
from owl_jax.hub.names import parse_name
from owl_jax.media.augment import Augmentation
from owl_jax.models.attention.dispatch import IMPLEMENTATIONS
from owl_jax.models.compute import Compute
from owl_jax.models.config import PARTS, OwlConfig
from owl_jax.models.own_parts import add_parts, own_files
from owl_jax.models.remat import policy
from owl_jax.text.formats.choose import load_format
from owl_jax.training.extensions import check_extensions
from owl_jax.training.objectives.next_token import next_token
from owl_jax.training.optimizer import DTYPES, Recipe
from owl_jax.training.partition import FROZEN, Rules

INT8 = "int8"  # frozen_dtype: quantises the frozen language model (checkpoint/int8.py)
FRESH = "fresh"  # init: random weights instead of a directory
SUBTREES = (*PARTS, "lora")
EXPORT_FORMATS = ("orbax", "huggingface", "none")
AUGMENTATIONS = {
    "none": None,
    "caption": Augmentation(),
    "caption+randaugment": Augmentation(rand_augment=True),
}


def base_config(model: OwlConfig) -> ConfigDict:
    """A config for `model` with everything but its data, rules and recipes."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 1
    config.epochs = 0.0  # above 0: replaces steps by the number of steps in that many epochs
    config.batch_size = 256  # sequences per step, over all processes and micro-batches
    config.gradient_accumulation_steps = 1  # micro-batches per step; same gradient as one batch
    config.clip_norm = 1.0  # global gradient norm over all trainable parameters; 0: no clipping
    config.max_skipped_steps = 5  # the run stops after this many non-finite steps in a row
    # model.conversation: a name (text/formats/), or the Python file of a format of your own.
    config.model = ConfigDict(model.to_dict())
    # Python files with parts of your own (docs/add_a_connector.md); by default those of `model`.
    config.parts = own_files(model)

    # Initial weights of each subtree: a directory (Hugging Face or owl_jax format), ORG/NAME on the
    # hub, or "fresh" (randomly initialised). tokenizer: either of the first; "": the language
    # model's.
    config.init = ConfigDict(dict.fromkeys(SUBTREES[: 4 if model.lora else 3], FRESH))
    config.tokenizer = ""
    config.allow_base_mismatch = False  # resume even if the frozen weights have changed

    # (pattern, recipe): the first pattern that matches the whole path of a parameter decides.
    # A recipe is a key of config.recipes (training/optimizer.py), or "frozen".
    config.rules = ()
    config.recipes = ConfigDict()
    # The loss: (model, compute) -> objective (training/objectives/objective.py).
    config.objective = FieldReference(next_token, field_type=object)
    config.frozen_dtype = "bfloat16"  # or float32; int8: only the language model's projections

    config.compute = ConfigDict()
    config.compute.dtype = "bfloat16"
    config.compute.attention = "auto"  # by platform; or a name from models/attention/dispatch.py
    config.compute.remat = "full"  # or the tensors to save (models/remat.py)
    config.compute.media_remat = "full"  # the same for vision tower and connector
    config.compute.scan_layers = True  # False: unrolled, faster on CPU, slower to compile
    config.compute.loss_tile = 512  # tokens of each sequence with logits in memory; 0: all
    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})

    config.data = ConfigDict()
    config.data.sequence_length = 2048  # in tokens
    config.data.image_slots = 1
    config.data.video_slots = 0
    config.data.frames = 4  # of each video
    config.data.pack = True  # several conversations per sequence; False: one
    config.data.open_rows = 64  # sequences that packing fills at the same time
    # ((source, weight), (source, weight, media_root), ...): a source is a path, or a CustomSource
    # (data/sources/custom.py); see docs/data.md.
    config.data.mixture = ()
    config.data.media_root = ""  # default for sources without one; "": the folder of each file
    config.data.augmentation = "none"  # or a key of AUGMENTATIONS
    config.data.unusual_images = "refuse"  # animated, CMYK, 16-bit; or "convert"
    config.data.decoder = "exact"  # "fast": decodes JPEG at reduced size; pixels differ slightly
    config.data.max_dropped = 0.01  # the run stops above this share of unusable records
    config.data.threads = 16  # threads that read and decode
    config.data.workers = 0  # processes that decode instead of threads
    config.data.resume = True  # False: a resumed run starts the data from the beginning

    config.log_every = 10
    config.checkpoint_every = 500
    config.keep_checkpoints = 2
    # An evaluator's metric, "NAME/METRIC", or "min NAME/METRIC" for a loss: the checkpoint with the
    # best value is kept as well, and exported at the end. "": the last step is exported.
    config.keep_best = ""
    config.skip_damaged = False  # resume from the last readable checkpoint
    config.hang_report = 600.0  # print stacks after this many seconds without a finished step
    config.hang_exit = 0.0  # exit with status 75 after this many seconds without one; 0: never
    config.profile = (0, 0)  # first and last step to trace into WORKDIR/profile; 0: none
    # Lists of objects (docs/training.md): hooks beside those of training/hooks/, and evaluators
    # such as HeldOutLoss(...).
    config.hooks = ()
    config.evaluators = ()
    config.export = "orbax"  # WORKDIR/model at the end: "orbax", "huggingface" or "none"
    return config


def small_config(model: OwlConfig) -> ConfigDict:
    """`base_config` for a model that trains on a few CPU cores: float32, no rematerialisation."""
    config = base_config(model)
    config.frozen_dtype = config.compute.dtype = "float32"
    config.compute.remat = config.compute.media_remat = "none"
    config.compute.scan_layers = False
    config.compute.loss_tile = 0
    config.data.threads = 2
    config.data.pack = False  # the demo's recipes are tuned for one per sequence
    config.checkpoint_every = 250
    return config


def read_model(config: ConfigDict) -> OwlConfig:
    """The model config. Raises UserError for invalid values.

    A conversation format in a Python file becomes part of the model config.
    """
    add_parts(_parts_files(config))
    values = config.model.to_dict()
    conversation = values.get("conversation")
    try:
        if isinstance(conversation, str) and conversation.endswith(".py"):
            values["conversation"] = dataclasses.asdict(load_format(conversation))
        model = OwlConfig.from_dict(values)
    except (TypeError, KeyError) as error:
        raise UserError(f"config.model: {error}") from None
    if problems := model.problems():
        raise UserError(f"config.model: {'; '.join(problems)}")
    if model.text_only:
        raise UserError(
            "config.model has no vision encoder and no connector; training needs both, and takes "
            "a language model alone as config.init.llm"
        )
    return model


def _parts_files(config: ConfigDict) -> Sequence[str]:
    files = config.get("parts", ())
    if not (isinstance(files, tuple | list) and all(isinstance(file, str) for file in files)):
        raise UserError(
            f"config.parts={files!r}: expected paths of Python files, as in ('my_connector.py',)"
        )
    return files


def read_compute(config: ConfigDict) -> Compute:
    """The compute config. Raises UserError for an unknown dtype, policy or implementation."""
    _check_choice(config, "compute.dtype", DTYPES)
    _check_choice(config, "compute.attention", IMPLEMENTATIONS)
    _check_least(config, "compute.loss_tile", 0)
    for key in ("remat", "media_remat"):
        try:
            policy(config.compute[key])
        except UserError as error:
            raise UserError(f"config.compute.{key}={error}") from None
    values = config.compute.to_dict()
    return Compute(**{**values, "dtype": jnp.dtype(values["dtype"])})


def read_recipes(config: ConfigDict) -> tuple[Rules, dict[str, Recipe]]:
    """The rules, the parts' own first, and the recipes that they use. Raises UserError."""
    rules = tuple((pattern, name) for pattern, name in (*_fixed(config), *config.rules))
    used = {name for _, name in rules if name != FROZEN}
    known = {field.name for field in dataclasses.fields(Recipe)}
    recipes = {}
    for name, values in config.recipes.items():
        if unknown := set(values) - known:
            raise UserError(
                f"config.recipes.{name} has unknown keys {sorted(unknown)}; a recipe has "
                f"{', '.join(sorted(known))}"
            )
        if name in used:
            recipes[name] = Recipe(**values)
    return rules, recipes


def _fixed(config: ConfigDict) -> Rules:
    """The rules for parameters that no part trains."""
    return tuple(
        (f"{subtree}/(.*/)?({'|'.join(fixed)})", FROZEN)
        for subtree, part in read_model(config).parts.items()
        if (fixed := part.FIXED)
    )


class MixturePart(NamedTuple):
    """One entry of `config.data.mixture`.

    media_root: the base of relative media paths; "": the source's folder, or the working directory
      for a CustomSource.
    """

    source: str | CustomSource
    weight: float | str
    media_root: str


def read_mixture(config: ConfigDict) -> list[MixturePart]:
    """The sources of a config. Raises UserError for a malformed entry."""
    parts = []
    for number, entry in enumerate(config.data.mixture):
        match entry:
            case (str() | CustomSource() as source, float() | int() | str() as weight):
                parts.append(MixturePart(source, weight, config.data.media_root))
            case (
                str() | CustomSource() as source,
                float() | int() | str() as weight,
                str(media_root),
            ):
                parts.append(MixturePart(source, weight, media_root))
            case _:
                raise UserError(
                    f"config.data.mixture[{number}] is {entry!r}; expected (source, weight) or "
                    "(source, weight, media_root), the source a path or a CustomSource"
                )
    return parts


def check_values(config: ConfigDict) -> None:
    """Raises UserError for a value that would fail only later in the run."""
    _check_no_former_keys(config)
    _check_choice(config, "export", EXPORT_FORMATS)
    _check_choice(config, "frozen_dtype", (*DTYPES, INT8))
    _check_choice(config, "data.augmentation", list(AUGMENTATIONS))
    _check_choice(config, "data.unusual_images", ("refuse", "convert"))
    _check_choice(config, "data.decoder", ("exact", "fast"))
    for key in (
        "steps",
        "batch_size",
        "gradient_accumulation_steps",
        "max_skipped_steps",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "data.sequence_length",
        "data.open_rows",
        "data.threads",
    ):
        _check_least(config, key, 1)
    for key in (
        "seed",
        "epochs",
        "hang_report",
        "hang_exit",
        "data.image_slots",
        "data.video_slots",
        "data.workers",
    ):
        _check_least(config, key, 0)
    whole = all(isinstance(step, int) for step in config.profile)
    if not (whole and len(config.profile) == 2 and 0 <= config.profile[0] <= config.profile[1]):
        raise UserError(
            f"config.profile={config.profile}: expected the first and the last step, as in (10, 12)"
        )
    if config.frozen_dtype == INT8 and config.init.llm == FRESH:
        raise UserError(
            f"config.frozen_dtype={INT8} needs pretrained weights, but config.init.llm=fresh; use "
            "bfloat16, or give config.init.llm a directory"
        )
    check_extensions(config)
    _check_keep_best(config)
    if config.data.video_slots:
        _check_least(config, "data.frames", 1)
    if not 0 <= config.data.max_dropped <= 1:
        raise UserError(f"config.data.max_dropped={config.data.max_dropped}: expected 0 to 1")


def sequence_shape(config: ConfigDict, model: OwlConfig) -> SequenceShape:
    """The shape of a packed sequence in the config's batches."""
    data = config.data
    return SequenceShape(
        data.sequence_length,
        model.media_lengths(data.frames),
        model.image_size,
        data.image_slots,
        data.video_slots,
        data.frames,
    )


def tokenizer_directory(config: ConfigDict) -> str:
    """`config.tokenizer`, or else the language model's directory; "" if there is neither."""
    llm: str = config.init.llm
    return config.tokenizer or ("" if llm == FRESH else llm)


def check_directories(config: ConfigDict, absent: Mapping[str, str] | None = None) -> None:
    """Raises one UserError that lists every missing file and directory.

    absent: why the hub does not have a value that may be a name of it, by value.
    """
    needed = {f"config.init.{subtree}": value for subtree, value in config.init.items()}
    needed["config.tokenizer"] = tokenizer_directory(config)
    for number, part in enumerate(read_mixture(config)):
        if isinstance(part.source, str) and is_missing(part.source):
            needed[f"config.data.mixture[{number}]"] = part.source
    missing: dict[str, list[str]] = {}
    for key, value in needed.items():
        if value != FRESH and not _is_there(value):
            missing.setdefault(value, []).append(key)
    if missing:
        reasons = {value: f"; {reason}" for value, reason in (absent or {}).items()}
        listed = ", ".join(
            f"{path!r} ({', '.join(keys)}{reasons.get(path, '')})" for path, keys in missing.items()
        )
        raise UserError(
            f"not found: {listed}. Put model directories (config.json, weights, tokenizer files) "
            "and data there, or give other paths, as in --config.tokenizer=DIR, or names of the "
            "hub, as in --config.init.llm=ORG/NAME (docs/training.md and docs/data.md say where to "
            "get them)"
        )


def _is_there(value: str) -> bool:
    """Whether a directory exists, or is one of the hub (training/hub_names.py)."""
    name = parse_name(value)
    return bool(value) and (Path(value).exists() or (name is not None and name.is_pinned))


def _check_no_former_keys(config: ConfigDict) -> None:
    for key in flatten_dict(config.to_dict(), sep="."):
        if change := replacement_of(key):
            raise UserError(f"config.{key} {change}")


def _check_keep_best(config: ConfigDict) -> None:
    """Raises UserError unless an evaluator may have the metric."""
    names = [evaluator.name for evaluator in config.evaluators]
    name, _, metric = config.keep_best.removeprefix("min ").partition("/")
    if config.keep_best and not (metric and name in names):
        known = ", ".join(f"{name}/..." for name in names) or "none, as config.evaluators is empty"
        raise UserError(
            f"config.keep_best={config.keep_best!r}: expected NAME/METRIC of an evaluator, or 'min "
            f"NAME/METRIC'; there are {known}"
        )


def _check_least(config: ConfigDict, key: str, least: int) -> None:
    value = operator.attrgetter(key)(config)
    if not value >= least:
        raise UserError(f"config.{key}={value}: expected at least {least}")


def _check_choice(config: ConfigDict, key: str, choices: Sequence[str]) -> None:
    value = operator.attrgetter(key)(config)
    if value not in choices:
        raise UserError(f"config.{key}={value!r}: expected one of {', '.join(choices)}")
