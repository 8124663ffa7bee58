"""Every key of a training config, with its default and meaning. Configs start from `base_config`.

A config is a locked ml_collections.ConfigDict: --config.KEY=VALUE overrides a key, and a key that
is not here is an error.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, FieldReference

from owl_jax.data.batch import RowShape
from owl_jax.data.sources.custom import CustomSource
from owl_jax.data.sources.detect import is_missing
from owl_jax.errors import UserError
from owl_jax.former_keys import in_its_place
from owl_jax.media.augment import Augmentation
from owl_jax.models.attention.dispatch import IMPLEMENTATIONS
from owl_jax.models.compute import Compute
from owl_jax.models.config import PARTS, OwlConfig
from owl_jax.models.remat import policy
from owl_jax.training.extensions import check_extensions
from owl_jax.training.objectives.next_token import next_token
from owl_jax.training.optimizer import DTYPES, Recipe
from owl_jax.training.partition import FROZEN, Rules

INT8 = "int8"  # frozen_dtype: the frozen language model's projections (checkpoint/int8.py)
FRESH = "fresh"  # init: new random weights instead of a directory
BRANCHES = (*PARTS, "lora")
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
    config.epochs = 0.0  # above 0: steps is set to what that many epochs of the data take
    config.batch_size = 256  # rows a step, over all processes and micro-batches
    config.gradient_accumulation_steps = (
        1  # micro-batches a step; the result is that of one large batch
    )
    config.clip_norm = 1.0  # of the gradient over all trainable parameters; 0: no clipping
    config.max_skipped_steps = 5  # non-finite steps in a row after which the run stops
    config.model = ConfigDict(model.to_dict())

    # Where each branch of the parameter tree starts: a directory (Hugging Face or owl_jax's own),
    # or "fresh". The tokenizer is read from a directory, too; "": the language model's.
    config.init = ConfigDict(dict.fromkeys(BRANCHES[: 4 if model.lora else 3], FRESH))
    config.tokenizer = ""
    config.allow_base_mismatch = (
        False  # resume though the frozen weights are others than the checkpoint's
    )

    # Freezing is data: the first pattern that matches the whole path of a parameter gives it a
    # recipe (a key of config.recipes, see training/optimizer.py) or "frozen".
    config.rules = ()
    config.recipes = ConfigDict()
    # What is minimised: (model, compute) -> objective (training/objectives/objective.py).
    config.objective = FieldReference(next_token, field_type=object)
    config.frozen_dtype = "bfloat16"  # float32, bfloat16; "int8": the language model's projections

    config.compute = ConfigDict()
    config.compute.dtype = "bfloat16"
    config.compute.attention = "auto"  # by platform; or a name of models/attention/dispatch.py
    config.compute.remat = "full"  # or what to keep, tensor by tensor (models/remat.py)
    config.compute.media_remat = "full"  # the same of vision encoder and connector
    config.compute.scan_layers = True  # False: unrolled, faster on CPU, slower to compile
    config.compute.loss_tile = (
        512  # tokens; rows of batches have this many whose logits are there at a time; 0: all
    )
    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})

    config.data = ConfigDict()
    config.data.sequence_length = 2048  # in tokens
    config.data.image_slots = 1
    config.data.video_slots = 0
    config.data.frames = 4  # of each video
    config.data.pack = True  # several conversations a row; False: one
    config.data.open_rows = 64  # among which a conversation finds its place
    # ((source, weight), (source, weight, media_root), ...): a source is a path, or an object of
    # one's own (data/sources/custom.py); docs/data.md.
    config.data.mixture = ()
    config.data.media_root = ""  # of sources without their own; "": the folder of each file
    config.data.augmentation = "none"  # or a key of AUGMENTATIONS
    config.data.unusual_images = "refuse"  # animated, CMYK, 16-bit; or "convert"
    config.data.decoder = "exact"  # "fast": JPEG at a reduced size, other pixels by a little
    config.data.max_dropped = 0.01  # share of unusable records above which the run stops
    config.data.threads = 16  # that read and decode
    config.data.workers = 0  # processes that decode instead of threads
    config.data.resume = True  # False: a resumed run begins the data again

    config.log_every = 10
    config.checkpoint_every = 500
    config.keep_checkpoints = 2
    config.skip_damaged = False  # resume from the checkpoint before one that cannot be read
    config.hang_report = 600.0  # seconds without the end of a step after which stacks are printed
    config.hang_exit = 0.0  # seconds after which a hung process ends with status 75; 0: never
    config.profile = (0, 0)  # first and last step to trace into WORKDIR/profile; 0: none
    # Lists of objects (docs/training.md). Hooks of one's own, beside those of training/hooks/; and
    # what is measured during the training, such as HeldOutLoss(...).
    config.hooks = ()
    config.evaluators = ()
    config.export = "orbax"  # WORKDIR/model at the end: "orbax", "huggingface" or "none"
    return config


def small_config(model: OwlConfig) -> ConfigDict:
    """`base_config` for a model that trains on a few CPU cores: float32, nothing recomputed."""
    config = base_config(model)
    config.frozen_dtype = config.compute.dtype = "float32"
    config.compute.remat = config.compute.media_remat = "none"
    config.compute.scan_layers = False
    config.compute.loss_tile = 0
    config.data.threads = 2
    config.data.pack = False  # the demonstration's recipes are tuned to a conversation a row
    config.checkpoint_every = 250
    return config


def read_model(config: ConfigDict) -> OwlConfig:
    """The model's description. Raises UserError for a value that makes no model."""
    values = config.model.to_dict()
    try:
        model = OwlConfig.from_dict(values)
    except (TypeError, KeyError) as error:
        raise UserError(f"config.model: {error}") from None
    if problems := model.problems():
        raise UserError(f"config.model: {'; '.join(problems)}")
    return model


def read_compute(config: ConfigDict) -> Compute:
    """How to compute. Raises UserError for an unknown dtype, policy or implementation."""
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
    """Rules and recipes; recipes that no rule names are left out. Raises UserError."""
    rules = tuple((pattern, name) for pattern, name in config.rules)
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


class MixturePart(NamedTuple):
    """One entry of `config.data.mixture`. media_root: what paths in it are relative to; "": its
    folder, or the working directory for an object."""

    source: str | CustomSource
    weight: float | str
    media_root: str


def read_mixture(config: ConfigDict) -> list[MixturePart]:
    """The sources of a config. Raises UserError for an entry that has another form."""
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
            f"config.frozen_dtype={INT8} takes its weights from a directory, but "
            "config.init.llm=fresh; use bfloat16"
        )
    check_extensions(config)
    if config.data.video_slots:
        _check_least(config, "data.frames", 1)
    if not 0 <= config.data.max_dropped <= 1:
        raise UserError(f"config.data.max_dropped={config.data.max_dropped}: expected 0 to 1")


def row_shape(config: ConfigDict, model: OwlConfig) -> RowShape:
    """What a row of the config's batches has room for."""
    data = config.data
    return RowShape(
        data.sequence_length,
        model.media_length,
        model.vision.image_size,
        data.image_slots,
        data.video_slots,
        data.frames,
    )


def tokenizer_directory(config: ConfigDict) -> str:
    """Where the tokenizer is; "" if neither it nor a directory of the language model is given."""
    llm: str = config.init.llm
    return config.tokenizer or ("" if llm == FRESH else llm)


def check_directories(config: ConfigDict) -> None:
    """Raises one UserError that names everything the config needs and that is not there."""
    needed = {f"config.init.{branch}": value for branch, value in config.init.items()}
    needed["config.tokenizer"] = tokenizer_directory(config)
    for number, part in enumerate(read_mixture(config)):
        if isinstance(part.source, str) and is_missing(part.source):
            needed[f"config.data.mixture[{number}]"] = part.source
    missing: dict[str, list[str]] = {}
    for key, value in needed.items():
        if value != FRESH and not (value and Path(value).exists()):
            missing.setdefault(value, []).append(key)
    if missing:
        listed = ", ".join(f"{path!r} ({', '.join(keys)})" for path, keys in missing.items())
        raise UserError(
            f"not found: {listed}. Put model directories (config.json, weights, tokenizer files) "
            "and data there, or name other places, as in --config.tokenizer=DIR (docs/training.md "
            "and docs/data.md tell where to get them)"
        )


def _check_no_former_keys(config: ConfigDict) -> None:
    for key in flatten_dict(config.to_dict(), sep="."):
        if instead := in_its_place(key):
            raise UserError(f"config.{key} is no key any more: {instead}")


def _check_least(config: ConfigDict, key: str, least: int) -> None:
    value = operator.attrgetter(key)(config)
    if not value >= least:
        raise UserError(f"config.{key}={value}: expected at least {least}")


def _check_choice(config: ConfigDict, key: str, choices: Sequence[str]) -> None:
    value = operator.attrgetter(key)(config)
    if value not in choices:
        raise UserError(f"config.{key}={value!r}: expected one of {', '.join(choices)}")
