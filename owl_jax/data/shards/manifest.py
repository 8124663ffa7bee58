"""manifest.json, which describes the shards of `python -m owl_jax.prepare`.

It holds the source, the options, how many records were written and skipped, and each shard's
record count, size and SHA-256. Its last key is a hash of the rest (sealed_json.py); older manifests
have none. It is written after all shards. The same input gives the same bytes: it contains nothing
about the time or the machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from owl_jax.errors import UserError, shown
from owl_jax.files import open_regular
from owl_jax.sealed_json import Damaged, sealed, unsealed

MANIFEST_FILE = "manifest.json"
# The journal of an unfinished run (shards/journal.py).
JOURNAL_FILE = "progress.jsonl"
FORMAT = "owl_jax shards"
VERSION = 1

# Identifies a manifest of any version, even if the rest is damaged.
_BEGINNING = json.dumps({"format": FORMAT}, indent=2).removesuffix("\n}").encode()

_REMEDY = "copy it again, or prepare the data again with --restart"

_Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Shard:
    """One ArrayRecord file. bytes: the size of the file."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[^/\0]+$")]
    records: _Count
    bytes: _Count
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Content of manifest.json.

    source: as the user gave it. fingerprint: of the source (sources/dataset_hash.py). options:
    those that determine the shards, by name. skipped: number of records left out, by reason.
    noted: number of records with each note (shards/payload.py, notes_of).
    """

    source: str
    fingerprint: str
    options: Mapping[str, Any]
    skipped: Mapping[str, _Count]
    shards: Sequence[Shard]
    noted: Mapping[str, _Count] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """Number of records in the shards."""
        return sum(shard.records for shard in self.shards)

    def to_json(self) -> str:
        """The text of manifest.json."""
        return json.dumps(sealed(self.to_values()), indent=2, ensure_ascii=False) + "\n"

    def to_values(self) -> dict[str, Any]:
        """The values of manifest.json without its hash."""
        return {
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


def is_finished(directory: Path) -> bool:
    """Whether prepare wrote a manifest here: any version counts, even a damaged one."""
    try:
        with open_regular(directory / MANIFEST_FILE) as file:
            if file.read(len(_BEGINNING)) == _BEGINNING:
                return True
        values = _read(directory / MANIFEST_FILE)
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("format") == FORMAT


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a directory of shards.

    Raises UserError if it is missing, damaged or of another version, or if the run that writes the
    directory has not finished.
    """
    path = directory / MANIFEST_FILE
    try:
        values = _read(path)
    except FileNotFoundError:
        if (directory / JOURNAL_FILE).exists():
            raise UserError(
                f"{directory} is not finished: run the same command again (python -m "
                "owl_jax.prepare) to resume it"
            ) from None
        raise UserError(
            f"{directory}: no {MANIFEST_FILE}; expected a directory that prepare wrote"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); {_REMEDY}") from None
    found = (values.get("format"), values.get("version")) if isinstance(values, dict) else None
    if found != (FORMAT, VERSION):
        raise UserError(
            f"{path} is {_described(found)}; this owl_jax reads {_described((FORMAT, VERSION))}: "
            "prepare the data again, or use the owl_jax that wrote it"
        )
    try:
        return _manifest_of(values)
    except Damaged as error:
        raise UserError(f"{path}: damaged, {error}; {_REMEDY}") from None


def _manifest_of(values: Mapping[str, Any]) -> Manifest:
    """The content of a manifest of this version. Raises Damaged if it has changed."""
    values, _ = unsealed(values, "content")
    try:
        reasons = values["skipped"]["reasons"]
        manifest = msgspec.convert({**values, "skipped": reasons}, Manifest)
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise Damaged(f"its content is malformed ({error})") from None
    # A manifest without a hash may be an older one, or the hash's own key may be damaged.
    if unknown := [key for key in values if key not in manifest.to_values()]:
        raise Damaged(f"it has an unknown key {shown(unknown[0])}")
    return manifest


def check_shards(directory: Path, manifest: Manifest) -> None:
    """Raises UserError if a shard is missing or its size differs from the manifest.

    Does not read the content: ArrayRecord has a checksum for every record.
    """
    for shard in manifest.shards:
        path = directory / shard.name
        if not path.is_file():
            raise UserError(
                f"{path}: missing, although {MANIFEST_FILE} lists it; copy it, or prepare again"
            )
        if (size := path.stat().st_size) != shard.bytes:
            raise UserError(
                f"{path}: {size} bytes, {MANIFEST_FILE} says {shard.bytes}; copy it again, or "
                "prepare again"
            )


def _read(path: Path) -> Any:
    """Raises OSError, and ValueError for invalid JSON."""
    with open_regular(path) as file:
        try:
            return json.loads(file.read().decode("utf-8"))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _described(found: tuple[Any, Any] | None) -> str:
    if found is None or found[0] is None:
        return "not a manifest of owl_jax"
    return f'"{found[0]}" of version {found[1]}'
