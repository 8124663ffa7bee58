"""The demonstration: python -m owl_jax.demo [--workdir=runs/demo]

Trains a small mPLUG-Owl from scratch on the embedded data set (a language model on text, then
stage 1, then stage 2), evaluates it on held-out scenes, prints a table, and writes report.json and
report.html. Run it again to resume.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from absl import flags

from owl_jax import cli
from owl_jax.command_names import as_called
from owl_jax.files import write_whole
from owl_jax.shipped import CONFIGS as SHIPPED

WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "directory for the three stages and reports")
CONFIGS = flags.DEFINE_string("configs", f"{SHIPPED}/demo", "directory of the stages' configs")
SCALE = flags.DEFINE_float("scale", 1.0, "multiplies the steps of every stage; 0.02 for a trial")
SEED = flags.DEFINE_integer("seed", 0, "draws weights, training examples and their order")
QUESTIONS = flags.DEFINE_integer(
    "questions", 500, "held-out questions about single pictures", lower_bound=1
)

# The stages in order, and the earlier stage that initialises each subtree of the parameters.
STAGES = {
    "stage0": {},
    "stage1": {"llm": "stage0"},
    "stage2": {"vision": "stage1", "connector": "stage1", "llm": "stage1"},
}


def main(_: list[str]) -> None:
    """Trains the three stages, evaluates, and writes the reports."""
    from owl_jax.demo.evaluation import evaluate, format_table
    from owl_jax.demo.report import write_report
    from owl_jax.demo.stages import train_stage, use_cores_well

    use_cores_well()
    workdir = Path(WORKDIR.value)
    seconds: dict[str, float] = {}
    models: dict[str, Path] = {}
    for stage, sources in STAGES.items():
        print(f"\n== {stage} ==", flush=True)
        start = time.monotonic()
        init = {subtree: models[source] for subtree, source in sources.items()}
        file = Path(CONFIGS.value) / f"{stage}.py"
        models[stage] = train_stage(file, workdir / stage, init, SCALE.value, SEED.value)
        seconds[stage] = round(time.monotonic() - start, 1)

    print("\n== held-out questions ==", flush=True)
    start = time.monotonic()
    results = evaluate(models["stage1"], models["stage2"], QUESTIONS.value)
    seconds["evaluation"] = round(time.monotonic() - start, 1)
    report = results.numbers | {"seconds": seconds, "model": str(models["stage2"])}
    write_whole(workdir / "report.json", json.dumps(report, indent=2) + "\n")
    write_report(workdir / "report.html", report, results.examples, [workdir / s for s in STAGES])
    print(format_table(report))
    cli.say(f"\nCurves and examples: {workdir / 'report.html'}")
    cli.say(as_called(f"Talk to it: python -m owl_jax.chat --model={models['stage2']}"))


if __name__ == "__main__":
    cli.run(main)
