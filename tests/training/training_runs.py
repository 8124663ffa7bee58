"""Runs of the training command as a user starts them: processes, their files, their signals."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forked import ROOT, Forked
from quick_compile import on_devices

Process = Forked | subprocess.Popen[str]
CONFIG = '''
"""Stage 2 of a tiny model on the embedded data set."""

import dataclasses
from pathlib import Path

from owl_jax.checkpoint.model_directory import read_config
from owl_jax.demo.synthetic import SyntheticSource
from owl_jax.models.lora import LoraConfig
from owl_jax.training.config import base_config

BASE = "{base}"


def get_config():
    lora = LoraConfig(rank=2, alpha=4.0, dropout=0.1)
    config = base_config(dataclasses.replace(read_config(Path(BASE)), lora=lora))
    config.steps = 20
    config.batch_size = 8
    config.init.vision = config.init.connector = config.init.llm = BASE
    config.tokenizer = BASE
    config.rules = (
        ("lora/.*", "lora"),
        ("connector/.*", "connector"),
        ("(vision|llm)/.*", "frozen"),
    )
    config.recipes.lora = {{"learning_rate": 1e-2}}
    config.recipes.connector = {{"learning_rate": 1e-2, "warmup_steps": 2}}
    config.compute.dtype = "float32"
    config.compute.remat = config.compute.media_remat = "none"
    config.compute.scan_layers = False  # of one layer each; a program of them compiles sooner
    config.data.sequence_length = 192
    kinds = {{"vqa": 1.0, "text_math": 1.0}}
    config.data.mixture = ((SyntheticSource(kinds, size=1000), 1.0),)
    config.data.threads = 2
    config.data.max_dropped = 0.9
    config.log_every = 1
    config.checkpoint_every = 5
    return config
'''


def start(
    config: Path | str,
    workdir: Path,
    *arguments: str,
    devices: int = 1,
    start_new_session: bool = False,
    **environment: str,
) -> Process:
    """Starts the command on CPU devices; anew, without fork, if it needs another environment."""
    every = ["-u", "-m", "owl_jax.train", f"--config={config}", f"--workdir={workdir}", *arguments]
    variables = os.environ | {"XLA_FLAGS": on_devices(devices)} | environment
    if not environment:
        return Forked(every, variables, start_new_session, ROOT)
    return subprocess.Popen(
        [sys.executable, *every],
        cwd=ROOT,
        env=variables,
        start_new_session=start_new_session,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_several(
    config: Path | str, workdir: Path, *arguments: str, count: int = 2, devices: int = 4
) -> list[Process]:
    """Starts the command as processes that find each other as launch/gpus.sh lets them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    together = ("--multihost", f"--coordinator_address={address}", f"--num_processes={count}")
    return [
        start(config, workdir, *together, f"--process_id={i}", *arguments, devices=devices)
        for i in range(count)
    ]


def finish(processes: Sequence[Process]) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of each; none is left running."""
    try:
        printed = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, printed, strict=True)]


def command(config: Path | str, workdir: Path, *arguments: str) -> tuple[int, str, str]:
    """Runs the command to its end: exit status, stdout, stderr."""
    return finish([start(config, workdir, *arguments)])[0]


def metrics_of(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def steps_of(workdir: Path) -> list[int]:
    """Of the complete checkpoints."""
    names = (path.name for path in (workdir / "checkpoints").iterdir())
    return sorted(int(name) for name in names if name.isdigit())


def state_of(workdir: Path, step: int) -> str:
    """The fingerprint of a checkpoint's state: equal for equal bits, on whatever mesh."""
    meta = workdir / "checkpoints" / str(step) / "meta" / "metadata"
    state: str = json.loads(meta.read_text())["state"]
    return state
