"""Detects the kind of a directory's data files by name, and of .json files by how they begin."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import BinaryIO

from owl_jax.data.sources.index import open_data, skip_bom
from owl_jax.data.sources.samples import (
    TEXT_SUFFIXES,
    is_sample_file,
    keys_of,
    suffix_of,
)
from owl_jax.errors import UserError
from owl_jax.media.video import natural_key

_KINDS = (".tar", ".array_record", ".parquet", ".jsonl", ".csv", ".json")
_SAME_KIND = {".ndjson": ".jsonl", ".tsv": ".csv"}

# Maximum number of .json files to open: a directory may have millions of text-only samples.
_MOST_OPENED = 1000
_LONGEST_LINE = 1 << 26  # bytes; a file of one object may be all one line


def kind_of(path: Path) -> str:
    """The main suffix of a file's kind (.jsonl, .csv, ...), or its own if the kind is unknown."""
    suffix = path.suffix.lower()
    return _SAME_KIND.get(suffix, suffix)


def files_of_one_kind(directory: Path) -> list[Path]:
    """The data files of a directory in natural order; [] if it has none.

    A .json is a data file if it holds an array and no other file has its name; otherwise it is the
    text of a sample (sources/samples.py). Parquet files count at any depth, as on the hub, except a
    file with the name of a tar: img2dataset writes one for each tar.

    Raises UserError for several kinds of files, and for data files among samples of media and text.
    """
    # The hub stores tables in a folder "data".
    nested = [path for path in directory.rglob("*.parquet") if path.parent != directory]
    files = [path for path in [*directory.iterdir(), *nested] if not path.name.startswith(".")]
    found: dict[str, list[Path]] = {kind: [] for kind in _KINDS}
    for path in sorted(files, key=lambda path: natural_key(str(path))):
        if (kind := kind_of(path)) in found and path.is_file():
            found[kind].append(path)
    found[".json"] = _arrays(found[".json"], files)
    tars = {path.stem for path in found[".tar"]}
    found[".parquet"] = [path for path in found[".parquet"] if path.stem not in tars]
    kinds = [kind for kind in _KINDS if found[kind]]
    counts = [f"{len(found[kind])} {kind}" for kind in kinds]
    if kinds and _has_samples(files):
        counts.append("media with texts of the same names")
    if len(counts) > 1:
        raise UserError(
            f"{directory}: found several kinds of data ({', '.join(counts)}); give a pattern for "
            f"one, such as {directory}/*{kinds[0]}, or move the others away"
        )
    return found[kinds[0]] if kinds else []


def is_json_lines(path: Path) -> bool:
    """Whether the first line of a .json is an object, so that it is JSON Lines."""
    with open_data(path) as file:
        return _go_to_first(file) == b"{" and file.readline(_LONGEST_LINE).rstrip().endswith(b"}")


def _arrays(paths: list[Path], files: list[Path]) -> list[Path]:
    """The .json files that hold an array and do not belong to a sample."""
    names = [path.name for path in files if is_sample_file(path.name)]
    keys = keys_of(names)
    members = Counter(keys)
    key_of = dict(zip(names, keys, strict=True))
    alone = [path for path in paths if members[key_of[path.name]] == 1]
    return [path for path in alone[:_MOST_OPENED] if _begins_as_array(path)]


def _has_samples(files: list[Path]) -> bool:
    """Whether there is an image or video with a text of its name."""
    names = [path.name for path in files if is_sample_file(path.name)]
    keys: dict[bool, set[str]] = {True: set(), False: set()}
    for name, key in zip(names, keys_of(names), strict=True):
        keys[suffix_of(name) in TEXT_SUFFIXES].add(key)
    return not keys[True].isdisjoint(keys[False])


def _begins_as_array(path: Path) -> bool:
    with open_data(path) as file:
        return _go_to_first(file) == b"["


def _go_to_first(file: BinaryIO) -> bytes:
    """Seeks to the first byte that is not blank, and returns it."""
    start = skip_bom(file)
    head = file.read(4096)
    rest = head.lstrip()
    file.seek(start + len(head) - len(rest))
    return rest[:1]
