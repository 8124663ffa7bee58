"""Ablates the training recipe: python -m owl_jax.ablation [--demo=runs/demo]

Trains the demonstration without one of its stages and without parts of stage 2's data: the paper's
ablation (arXiv 2304.14178), and its claim that a model which was never trained on two pictures
together can relate them. Without stage 1 the vision tower stays random, since stage 2 freezes it;
the paper's comes from CLIP. Trains each arm with several seeds, on the demonstration's language
model, and asks all models the same held-out questions. Prints tables with 95 % intervals; writes
report.json, report.html and the figure alone, figure.svg. Run it again to resume.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from owl_jax import cli
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


@dataclass(frozen=True)
class Arm:
    """What a model is trained on.

    stage1: whether stage 2 begins with the vision tower and the connector of stage 1.
    kinds: pattern of the kinds of stage 2's examples; None: no stage 2.
    """

    stage1: bool = True
    kinds: str | None = ".*"


# By the name in the tables. The others are compared with the first.
RECIPE, NO_STAGE_2 = "the recipe", "no stage 2"
ARMS = {
    RECIPE: Arm(),
    "no stage 1": Arm(stage1=False),
    NO_STAGE_2: Arm(kinds=None),
    "multimodal data only": Arm(kinds="(?!text_).*"),
    "text-only data only": Arm(kinds="text_.*"),
    "single pictures and text": Arm(kinds="(?!two_images|video).*"),
    "no stage 1, no text": Arm(stage1=False, kinds="(?!text_).*"),
}


def main(_: list[str]) -> None:
    """For each seed, trains stage 1 and the arms' stage 2, and asks; then writes the reports."""
    from owl_jax.demo.ablation_report import (
        Answered,
        figure,
        format_tables,
        summarize,
        write_report,
    )
    from owl_jax.demo.evaluation import held_out_questions
    from owl_jax.demo.stages import load_config, train_stage, use_cores_well
    from owl_jax.pages.page import drawing

    use_cores_well()
    workdir, configs = Path(WORKDIR.value), Path(CONFIGS.value)
    language = Path(DEMO.value) / "stage0" / "model"
    if not language.exists():
        raise UserError(
            f"{language} is missing; run `python -m owl_jax.demo` first, or give --demo=DIR"
        )
    stage2 = configs / "stage2.py"
    for arm in ARMS.values():  # before hours of training
        if arm.kinds is not None:
            keep_kinds(load_config(stage2), arm.kinds)

    answered = Answered(held_out_questions(QUESTIONS.value))
    runs: dict[str, dict[str, Path]] = {"stage 1": {}}
    for seed in range(1, SEEDS.value + 1):
        folder = workdir / f"seed{seed}"
        runs["stage 1"][f"seed {seed}"] = folder / "stage1"
        print(f"\n== seed {seed}: stage 1 ==", flush=True)
        visual = train_stage(
            configs / "stage1.py", folder / "stage1", {"llm": language}, SCALE.value, seed
        )
        for name, arm in ARMS.items():
            model = visual
            if arm.kinds is not None:
                print(f"\n== seed {seed}: stage 2, {name} ==", flush=True)
                run = folder / re.sub("[ ,]+", "_", name)
                runs.setdefault(name, {})[f"seed {seed}"] = run
                init = {"llm": language}
                if arm.stage1:
                    init |= {"vision": visual, "connector": visual}
                change = partial(keep_kinds, kinds=arm.kinds)
                model = train_stage(stage2, run, init, SCALE.value, seed, change)
            answered.ask(name, model)

    report = {
        "seeds": SEEDS.value,
        "scale": SCALE.value,
        "questions": QUESTIONS.value,
        **summarize(answered.verdicts, answered.groups, RECIPE, NO_STAGE_2),
    }
    write_whole(workdir / "report.json", json.dumps(report, indent=2) + "\n")
    write_whole(workdir / "figure.svg", drawing(figure(report)))
    write_report(workdir / "report.html", report, runs)
    print(format_tables(report))
    cli.say(f"\nThe figure and the loss curves: {workdir / 'report.html'}")


def keep_kinds(config: ConfigDict, kinds: str) -> None:
    """Keeps the kinds of examples that match the pattern.

    Raises UserError if the mixture is not one synthetic source, or if no kind is kept; and if none
    is removed, unless the pattern is that of all.
    """
    mixture = config.data.mixture
    found = getattr(mixture[0][0], "kinds", None) if len(mixture) == 1 else None
    if found is None:
        raise UserError(
            f"stage 2 has {len(mixture)} sources in data.mixture; the ablation expects one, a "
            "SyntheticSource"
        )
    kept = {kind: share for kind, share in found.items() if re.fullmatch(kinds, kind)}
    if not kept or (len(kept) == len(found) and kinds != Arm.kinds):
        raise UserError(
            f"stage 2 has the kinds {', '.join(found)}; the ablation expects single pictures, "
            "pictures or videos beside them, and text-only kinds, to leave some of them out"
        )
    ((source, *weight),) = mixture
    config.data.mixture = ((replace(source, kinds=kept), *weight),)


if __name__ == "__main__":
    cli.run(main)
