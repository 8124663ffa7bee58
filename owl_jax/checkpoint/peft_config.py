"""Reads PEFT's adapter_config.json; refuses anything but plain LoRA.

Source: LoraConfig and the layers of PEFT 0.4 to 0.21 (peft/tuners/lora/{config,layer,variants}.py).
Plain LoRA is W + (alpha / rank) A B. Keys that change this, and unknown keys, must be off: null,
false, 0 or empty.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.checkpoint import schema
from owl_jax.errors import UserError, listed, shown
from owl_jax.files import read_json

# Keys that are read, or that do not affect a trained adapter: its origin, its training, options of
# initialisation.
_ACCEPTED = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "inference_mode",
        "init_lora_weights",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",  # a module's name, used with megatron_config only
        "merge_weights",  # PEFT before 0.4: when to merge
        "peft_type",
        "peft_version",
        "qalora_group_size",  # used with use_qalora only
        "r",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)

# Initialisation does not affect a trained adapter, unless it changes the base too.
_BASE_KEPT = ("eva", "gaussian", "mica", "orthogonal")
_BASE_CHANGED = ("corda", "loftq", "lora_ga", "olora", "pissa")

# For all matches of a pattern; typical patterns take far less than a millisecond.
_PATTERN_SECONDS = 0.5


def read_peft_config(path: Path) -> schema.Adapter:
    """Reads adapter_config.json.

    Raises UserError for a missing file, a value of the wrong type or out of range, and any key or
    value that is not plain LoRA.
    """
    values = read_json(path)
    if values.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type {shown(values.get('peft_type'))}; expected 'LORA'")
    unsupported = sorted(name for name, value in values.items() if _is_unsupported(name, value))
    if unsupported:
        names = listed((shown(name)[1:-1] for name in unsupported), most=20)
        raise UserError(f"{path}: not supported: {names}; expected plain LoRA")
    adapter = schema.convert(path, values, schema.Adapter)
    _check_initialisation(path, values.get("init_lora_weights", True))
    return adapter


def _is_unsupported(name: str, value: Any) -> bool:
    if name == "bias":
        return value is not None and value != "none"
    if name == "layers_to_transform" and type(value) is int:
        return True  # 0 is the first layer
    return bool(value) and name not in _ACCEPTED


def _check_initialisation(path: Path, value: Any) -> None:
    if value is None or isinstance(value, bool):
        return
    name = value.lower() if isinstance(value, str) else ""
    if name in _BASE_KEPT:
        return
    if name.startswith(_BASE_CHANGED):
        raise UserError(
            f"{path}: not supported: init_lora_weights {shown(value)}, which changes the base's "
            "weights; convert the adapter with PEFT: save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...)"
        )
    raise UserError(
        f"{path}: not supported: init_lora_weights {shown(value)}; expected true, false or one of "
        f"{', '.join(_BASE_KEPT)}"
    )


def named_targets(
    target_modules: str | Sequence[str], modules: Mapping[str, Sequence[str]], path: Path
) -> tuple[str, ...]:
    """The projections of which PEFT adapts at least one module.

    target_modules: a pattern for the whole name of a module, or a list of names or suffixes.
    modules: module names by projection.
    Raises UserError for a pattern that is invalid or takes too long.
    """
    if not isinstance(target_modules, str):
        ends = tuple(f".{name}" for name in target_modules)
        return tuple(
            projection
            for projection, names in modules.items()
            if any(f".{name}".endswith(ends) for name in names)
        )
    # Imported here: it takes 15 ms, and few adapters have a pattern. Unlike re, regex has a timeout
    # for patterns such as (a|a)+.
    import regex

    what = f"{path}: target_modules {shown(target_modules)}"
    try:
        re.compile(target_modules)  # PEFT uses re
        pattern = regex.compile(target_modules)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise UserError(f"{what}: {error}") from None
    end = time.monotonic() + _PATTERN_SECONDS
    found = []
    try:
        for projection, names in modules.items():
            if any(
                pattern.fullmatch(name, timeout=max(end - time.monotonic(), 1e-3)) for name in names
            ):
                found.append(projection)
    except TimeoutError:
        raise UserError(
            f"{what}: the pattern takes too long to match; expected a simpler one, or a list of "
            "names"
        ) from None
    return tuple(found)
