"""The console scripts: owl-train runs what python -m owl_jax.train runs, and so on (setup.py).

A command runs as the main module here too: its flags, its docstring for --help and the processes
that it spawns all depend on that.
"""

from __future__ import annotations

import runpy
from functools import partial


def _run(script: str, module: str) -> None:
    """Runs a command's module; its messages name `script` (command_names.py)."""
    runpy.run_module(module, {"__script__": script}, run_name="__main__", alter_sys=True)


ablation = partial(_run, "owl-ablation", "owl_jax.demo.ablation")
chat = partial(_run, "owl-chat", "owl_jax.chat")
compile = partial(_run, "owl-compile", "owl_jax.compile")
convert = partial(_run, "owl-convert", "owl_jax.convert")
demo = partial(_run, "owl-demo", "owl_jax.demo")
evaluate = partial(_run, "owl-evaluate", "owl_jax.evaluate")
generate = partial(_run, "owl-generate", "owl_jax.generate")
prepare = partial(_run, "owl-prepare", "owl_jax.prepare")
preview = partial(_run, "owl-preview", "owl_jax.preview")
serve = partial(_run, "owl-serve", "owl_jax.serve")
train = partial(_run, "owl-train", "owl_jax.train")
