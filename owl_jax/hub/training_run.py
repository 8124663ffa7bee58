"""What a workdir tells about the run whose model it has: for the card of the model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError
from owl_jax.files import open_regular, read_json
from owl_jax.hub.names import PROTOCOL

_FRESH, _FROZEN = "fresh", "frozen"

# Of config.json: what the card's readers compare.
_SETTINGS = (
    *("steps", "batch_size", "gradient_accumulation_steps", "clip_norm", "seed"),
    *("frozen_dtype", "compute.dtype", "data.sequence_length", "data.image_slots"),
    *("data.video_slots", "data.frames", "data.augmentation"),
)
# Metrics of the machine, not of the model.
_OF_THE_RUN = ("learning_rate/", "step_seconds/")


@dataclass(frozen=True)
class TrainingRun:
    """A run, as its workdir has it.

    init: {subtree: directory or name of the hub} of what was not randomly initialised. mixture:
    (source, weight). rules: (pattern, recipe). recipes: their values as text. step: of the model.
    metrics: the last values up to this step. chosen_by: the metric that chose the step, or "".
    command: of the newest start, "" if unknown.
    """

    init: Mapping[str, str]
    mixture: Sequence[tuple[str, str]]
    settings: Mapping[str, Any]
    rules: Sequence[tuple[str, str]]
    recipes: Mapping[str, str]
    step: int
    metrics: Mapping[str, str]
    chosen_by: str
    command: str


def read_run(model: Path) -> TrainingRun | None:
    """The run that exported `model` to WORKDIR/model; None if it is elsewhere.

    Raises UserError for a damaged config.json.
    """
    workdir = model.absolute().parent
    if not (workdir / "config.json").exists() or not (workdir / "metrics.jsonl").exists():
        return None
    config = read_json(workdir / "config.json")
    best = read_json(model / "best.json") if (model / "best.json").exists() else {}
    try:
        used = {name for _, name in config["rules"]} - {_FROZEN}
        step, metrics = _metrics(workdir / "metrics.jsonl", best.get("step"))
        return TrainingRun(
            {part: value for part, value in config["init"].items() if value != _FRESH},
            [(_shown(entry[0]), str(entry[1])) for entry in config["data"]["mixture"]],
            {key: _at(config, key) for key in _SETTINGS},
            [(pattern, name) for pattern, name in config["rules"]],
            {
                name: ", ".join(f"{key} {value}" for key, value in values.items())
                for name, values in config["recipes"].items()
                if name in used
            },
            step,
            metrics,
            str(best.get("metric", "")),
            _command(workdir / "command.txt"),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"{workdir / 'config.json'}: not a training run's ({error!r}); copy the model to a "
            "folder of its own, and convert that"
        ) from None


def _metrics(path: Path, last: int | None) -> tuple[int, dict[str, str]]:
    """(step, metrics as text) of metrics.jsonl, up to the step `last`."""
    step, metrics = 0, {}
    with open_regular(path) as file:
        for line in file:
            values = json.loads(line)
            if last is not None and values["step"] > last:
                break
            step = values["step"]
            for name, value in values.items():
                is_ours = name == "loss" or ("/" in name and not name.startswith(_OF_THE_RUN))
                if is_ours and isinstance(value, int | float) and math.isfinite(value):
                    metrics[name] = f"{value:.4g}"
    return step, metrics


def _shown(source: Any) -> str:
    """A source without the folders of the machine it was on."""
    text = str(source)
    return text if text.startswith(PROTOCOL) or "(" in text else text.rstrip("/").rpartition("/")[2]


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def _command(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""
