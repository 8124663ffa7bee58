"""Ablates the training recipe: python -m owl_jax.ablation [--demo=runs/demo]

Trains the demonstration's stage 2 with and without stage 1, on all data and on multimodal data
only: the paper's ablation (arXiv 2304.14178). Without stage 1 the vision tower stays random, since
stage 2 freezes it; in the paper it comes from CLIP. Trains each arm with several seeds, on the
demonstration's language model. Prints a table of means and standard deviations and writes
report.json. Run it again to resume.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from owl_jax import cli
from owl_jax.command_names import as_called
from owl_jax.errors import UserError
from owl_jax.files import write_whole
from owl_jax.shipped import CONFIGS as SHIPPED

WORKDIR = flags.DEFINE_string("workdir", "runs/ablation", "directory for the runs and the report")
DEMO = flags.DEFINE_string("demo", "runs/demo", "workdir of the demonstration, to be run first")
CONFIGS = flags.DEFINE_string("configs", f"{SHIPPED}/demo", "directory of the stages' configs")
SEEDS = flags.DEFINE_integer("seeds", 3, "training runs of each arm", lower_bound=1)
SCALE = flags.DEFINE_float("scale", 1.0, "multiplies the steps of every run")
QUESTIONS = flags.DEFINE_integer(
    "questions", 200, "held-out questions about single pictures", lower_bound=1
)

# Row of the table -> (with stage 1, with the text-only data).
ARMS = {
    "the recipe": (True, True),
    "no stage 1": (False, True),
    "multimodal data only": (True, False),
    "neither": (False, False),
}
COLUMNS = {
    "picture": "image_accuracy",
    "two pictures": "multi_image_accuracy",
    "video": "video_accuracy",
    "text alone": "text_accuracy_after",
}


def main(_: list[str]) -> None:
    """For each seed, trains stage 1 and four variants of stage 2; then prints the table."""
    from owl_jax.demo.evaluation import evaluate
    from owl_jax.demo.stages import train_stage

    workdir, configs = Path(WORKDIR.value), Path(CONFIGS.value)
    language = Path(DEMO.value) / "stage0" / "model"
    if not language.exists():
        demo = as_called("python -m owl_jax.demo")
        raise UserError(f"{language} is missing; run `{demo}` first, or give --demo=DIR")
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for seed in range(1, SEEDS.value + 1):
        folder = workdir / f"seed{seed}"
        print(f"\n== seed {seed}: stage 1 ==", flush=True)
        visual = train_stage(
            configs / "stage1.py",
            folder / "stage1",
            {"llm": language},
            SCALE.value,
            seed,
        )
        for arm, (with_stage1, with_text) in ARMS.items():
            print(f"\n== seed {seed}: stage 2, {arm} ==", flush=True)
            init = {"llm": language}
            if with_stage1:
                init |= {"vision": visual, "connector": visual}
            model = train_stage(
                configs / "stage2.py",
                folder / arm.replace(" ", "_"),
                init,
                SCALE.value,
                seed,
                partial(change, with_text=with_text),
            )
            found[arm].append(evaluate(visual, model, QUESTIONS.value).numbers)
    report = {"seeds": SEEDS.value, "questions": QUESTIONS.value, "arms": summarize(found)}
    write_whole(workdir / "report.json", json.dumps(report, indent=2) + "\n")
    print(format_table(report))


def change(config: ConfigDict, with_text: bool) -> None:
    """Removes text-only data unless `with_text`."""
    ((source, weight),) = config.data.mixture
    kinds = {
        kind: share
        for kind, share in source.kinds.items()
        if with_text or not kind.startswith("text_")
    }
    config.data.mixture = ((replace(source, kinds=kinds), weight),)


def summarize(
    found: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and sample standard deviation over the seeds, for each arm and column."""
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for arm, results in found.items():
        summary[arm] = {}
        for column, key in COLUMNS.items():
            values = [result[key] for result in results]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            summary[arm][column] = {"mean": statistics.fmean(values), "stdev": spread}
    return summary


def format_table(report: Mapping) -> str:
    """The report as a text table: accuracy in percent, mean and standard deviation."""
    lines = [f"{'held-out accuracy, %':<22}" + "".join(f"{name:>16}" for name in COLUMNS)]
    lines.append("-" * len(lines[0]))
    for arm, columns in report["arms"].items():
        cells = (f"{100 * c['mean']:.1f} ± {100 * c['stdev']:.1f}" for c in columns.values())
        lines.append(f"{arm:<22}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join([*lines, f"{report['seeds']} seeds, mean ± standard deviation"])


if __name__ == "__main__":
    cli.run(main)
