"""Names of the hub in a config: a resumed run takes the same commits as its start.

Before anything else each name is replaced by ORG/NAME@COMMIT, which config.json, checkpoints and
adapters then record, and models are downloaded. WORKDIR/hub.json keeps {name as given: commit}, so
that the same command means the same, even if a branch has been changed since.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ml_collections import ConfigDict

from owl_jax.checkpoint.hub_directory import model_directory, tokenizer_directory
from owl_jax.data.sources.hub_data import is_on_hub
from owl_jax.errors import UserError, shown
from owl_jax.files import read_json, write_whole
from owl_jax.hub.errors import NotOnHub
from owl_jax.hub.names import COMMIT, HubName, on_hub, parse_name
from owl_jax.hub.snapshot import open_snapshot, tell_if_ambiguous
from owl_jax.training.start_up import say

FILE_NAME = "hub.json"


class Pins:
    """The names of the hub in a run: their commits, by name without a path."""

    def __init__(self, workdir: Path) -> None:
        self._path = workdir / FILE_NAME
        self._commits: dict[str, str] = read_json(self._path) if self._path.exists() else {}
        for name, commit in self._commits.items():
            if not (isinstance(commit, str) and COMMIT.fullmatch(commit)):
                raise UserError(
                    f"{self._path}: {shown(name)} is {shown(commit)}; expected a commit; restore "
                    "the file, or remove it to take the newest commits"
                )

    def write(self) -> None:
        """Writes hub.json, if there are any names."""
        if self._commits:
            write_whole(self._path, json.dumps(self._commits, indent=2) + "\n")

    def at_commit(self, name: HubName) -> HubName:
        """The name at its commit. Raises NotOnHub and UserError as `open_snapshot` does."""
        if name.is_pinned:
            return name
        key = str(replace(name, path=""))
        if key not in self._commits:
            self._commits[key] = open_snapshot(name).name.revision or ""
        return name.at(self._commits[key])


def pin_names(config: ConfigDict, workdir: Path) -> tuple[Pins, dict[str, str]]:
    """Puts commits into the names of the hub in `config`, and downloads the models.

    Returns: the pins; {value of config.init or config.tokenizer: why it is not on the hub}.
    Raises UserError for a download that fails, and for data that the hub does not have.
    """

    def tell(text: str) -> None:
        say(f"note: {text}")

    pins, absent = Pins(workdir), {}
    values = [value for value in (*config.init.values(), config.tokenizer) if value]
    pinned: dict[str, str] = {}
    for value in dict.fromkeys(values):
        tell_if_ambiguous(value, tell)
        if (name := on_hub(value)) is None:
            continue
        try:
            pinned[value] = str(pins.at_commit(name))
        except NotOnHub as error:
            absent[value] = error.reason
            continue
        is_model = value in config.init.values()
        download = model_directory if is_model else tokenizer_directory
        download(pinned[value], tell=tell)
    for subtree, value in config.init.items():
        config.init[subtree] = pinned.get(value, value)
    config.tokenizer = pinned.get(config.tokenizer, config.tokenizer)
    _pin_data(config, pins)
    return pins, absent


def _pin_data(config: ConfigDict, pins: Pins) -> None:
    def pinned(value: object) -> object:
        name = parse_name(value) if isinstance(value, str) and is_on_hub(value) else None
        return value if name is None else str(pins.at_commit(name))

    config.data.media_root = pinned(config.data.media_root)
    config.data.mixture = tuple(
        tuple(pinned(item) for item in entry) if isinstance(entry, tuple | list) else entry
        for entry in config.data.mixture
    )
