"""Exports the trained model to WORKDIR/model."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from owl_jax.checkpoint.adapter_base import Base
from owl_jax.checkpoint.hub_directory import tokenizer_directory
from owl_jax.checkpoint.model_directory import save_model
from owl_jax.training import config as settings
from owl_jax.training.hooks.keep_best import Best
from owl_jax.training.init_params import unrounded
from owl_jax.training.partition import merge
from owl_jax.training.run import Run

BEST_FILE = "best.json"


def export_directory(run: Run) -> Path | None:
    """The directory of the exported model, or None if the config exports none."""
    return None if run.config.export == "none" else run.workdir / "model"


def rename_former_model(run: Run) -> None:
    """Renames an existing model, which this run exported before config.steps was raised."""
    model = run.workdir / "model"
    if jax.process_index() == 0 and model.exists():
        former = model.with_name(f"{model.name}-{run.start}")
        shutil.rmtree(former, ignore_errors=True)
        model.rename(former)


def export(
    run: Run, directory: Path, trainable: Any, frozen: Any, best: Best | None = None
) -> None:
    """Writes the model in the format `config.export`. Consumes `frozen`, array by array.

    best: the step that `trainable` is of, if it was chosen by a metric; best.json tells it.
    """
    config, program = run.config, run.program
    params = unrounded(config, merge(trainable, program.stacked(frozen)))
    base = Base.of(config.init.llm, params["llm"]) if "lora" in params else None
    tokenizer = tokenizer_directory(settings.tokenizer_directory(config))
    notes = {} if best is None else {BEST_FILE: json.dumps(asdict(best), indent=2) + "\n"}
    save_model(directory, program.model, params, config.export, tokenizer, base, notes=notes)
