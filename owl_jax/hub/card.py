"""The card (README.md) of a model that goes to the hub: what is known of it, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from owl_jax.hub.names import HubName, parse_name
from owl_jax.hub.training_run import TrainingRun

_TEMPLATE = Path(__file__).with_name("templates") / "model_card.md"


@dataclass(frozen=True)
class Described:
    """A model for its card.

    repo: ORG/NAME, where it goes. parts: {part: what it is}. is_adapter: it needs its base.
    is_merged: it has the weights of an adapter. text_only: it sees no pictures. bases: {what was
    taken: name or directory}. run: that trained it. commands: that made it.
    """

    repo: str
    parts: Mapping[str, str]
    is_adapter: bool
    is_merged: bool
    text_only: bool
    bases: Mapping[str, str]
    run: TrainingRun | None
    commands: Sequence[str]


def model_card(model: Described) -> str:
    """The text of README.md, with the metadata that the hub reads."""
    from huggingface_hub import ModelCard, ModelCardData

    bases = dict(model.run.init) if model.run else {}
    bases |= {what: base for what, base in model.bases.items() if base not in bases.values()}
    models = _repos(bases.values(), "model")
    relation = None
    if models:
        trained = "finetune" if model.run else None
        relation = "adapter" if model.is_adapter else "merge" if model.is_merged else trained
    sources = [source for source, _ in model.run.mixture] if model.run else []
    data = ModelCardData(
        library_name="owl_jax",
        pipeline_tag="text-generation" if model.text_only else "image-text-to-text",
        base_model=models[0] if len(models) == 1 else models or None,
        base_model_relation=relation,
        datasets=_repos(sources, "dataset") or None,
    )
    base = models[0] if models else "BASE"
    what = "A LoRA adapter for" if model.is_adapter else "A"
    kind = "language model" if model.text_only else "vision-language model"
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        name=model.repo.partition("/")[2],
        repo=model.repo,
        summary=f"{what} {'a ' * model.is_adapter}{kind}, written by owl_jax.",
        how=f"--model={base} --adapter={model.repo}"
        if model.is_adapter
        else f"--model={model.repo}",
        is_adapter=model.is_adapter,
        parts=model.parts,
        bases={what: _shown(base) for what, base in bases.items()},
        run=model.run,
        commands=[_without_home(command) for command in model.commands],
    )
    return str(card)


def _repos(names: Iterable[str], kind: str) -> list[str]:
    """The repositories of a kind among names and paths, each once."""
    found = [name for name in map(_pinned, names) if name and name.kind == kind]
    return list(dict.fromkeys(name.repo for name in found))


def _pinned(name: str) -> HubName | None:
    """A name that was certainly the hub's: others may have been paths of the machine."""
    parsed = parse_name(name)
    return parsed if parsed and parsed.is_pinned else None


def _shown(base: str) -> str:
    """A name, or the last part of a path, which says enough to those who do not have it."""
    return f"`{base}`" if _pinned(base) else f"`{Path(base).name}`, a directory"


def _without_home(command: str) -> str:
    home = os.path.expanduser("~").rstrip("/")  # noqa: PTH111 - Path.home raises without one
    return command.replace(f"{home}/", "~/") if home else command
