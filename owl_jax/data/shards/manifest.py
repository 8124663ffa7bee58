"""What `python -m owl_jax.prepare` wrote: manifest.json beside the shards.

It names the source and the options, counts the records and the skipped ones, and has for each
shard its records, bytes and SHA-256. It is there only when all shards are, and the same input gives
the same bytes: nothing in it tells of the time or the machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError
from owl_jax.files import open_regular

MANIFEST_FILE = "manifest.json"
# Of a run that is not finished: what it has done so far (shards/write.py).
JOURNAL_FILE = "progress.jsonl"
FORMAT = "owl_jax shards"
VERSION = 1


@dataclass(frozen=True)
class Shard:
    """One ArrayRecord file. bytes: of the file, not of what is in it."""

    name: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """source: as it was given. options: those that decide what is in the shards, by name.

    fingerprint: of the source (sources/fingerprint.py). skipped: how many records of the source are
    not in the shards, by reason. noted: how many that are in them had something to tell of
    (shards/payload.py, notes_of).
    """

    source: str
    fingerprint: str
    options: Mapping[str, Any]
    skipped: Mapping[str, int]
    shards: Sequence[Shard]
    noted: Mapping[str, int] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """How many are in the shards."""
        return sum(shard.records for shard in self.shards)

    def to_json(self) -> str:
        """The text of manifest.json."""
        values = {
            "format": FORMAT,
            "version": VERSION,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "options": dict(self.options),
            "records": self.records,
            "skipped": {
                "total": sum(self.skipped.values()),
                "reasons": dict(sorted(self.skipped.items())),
            },
            "noted": dict(sorted(self.noted.items())),
            "shards": [asdict(shard) for shard in self.shards],
        }
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def is_finished(directory: Path) -> bool:
    """Whether prepare's manifest, of whatever version, is there."""
    try:
        values = _read(directory / MANIFEST_FILE)
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("format") == FORMAT


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a directory of shards.

    Raises UserError where it is missing, malformed or of another version, or the directory is not
    finished.
    """
    path = directory / MANIFEST_FILE
    try:
        values = _read(path)
    except FileNotFoundError:
        if (directory / JOURNAL_FILE).exists():
            raise UserError(
                f"{directory} is not finished: give the command that began it again (python -m "
                "owl_jax.prepare), and it goes on where it stopped"
            ) from None
        raise UserError(f"{directory}: no {MANIFEST_FILE}; expected shards of prepare") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    found = (values.get("format"), values.get("version")) if isinstance(values, dict) else None
    if found != (FORMAT, VERSION):
        raise UserError(
            f"{path} is {_described(found)}; this owl_jax reads {_described((FORMAT, VERSION))}: "
            "prepare the data again, or use the owl_jax that wrote it"
        )
    try:
        shards = [Shard(**shard) for shard in values["shards"]]
        skipped = values["skipped"]["reasons"]
        source, fingerprint = values["source"], values["fingerprint"]
        noted = values.get("noted", {})
        return Manifest(source, fingerprint, values["options"], skipped, shards, noted)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: malformed ({error!r}); prepare the data again") from None


def check_shards(directory: Path, manifest: Manifest) -> None:
    """Raises UserError for a shard that is missing or has another size than the manifest says.

    What is inside is not read: every record has a check sum of its own (ArrayRecord).
    """
    for shard in manifest.shards:
        path = directory / shard.name
        if not path.is_file():
            raise UserError(f"{path}: missing, {MANIFEST_FILE} lists it; copy it, or prepare again")
        if (size := path.stat().st_size) != shard.bytes:
            raise UserError(
                f"{path}: {size} bytes, {MANIFEST_FILE} says {shard.bytes}; copy it again, or "
                "prepare again"
            )


def _read(path: Path) -> Any:
    """Raises OSError, and ValueError for what is no JSON."""
    with open_regular(path) as file:
        try:
            return json.loads(file.read().decode("utf-8"))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _described(found: tuple[Any, Any] | None) -> str:
    if found is None or found[0] is None:
        return "no manifest of owl_jax"
    return f'"{found[0]}" of version {found[1]}'
