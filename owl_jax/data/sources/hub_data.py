"""Data sets of Hugging Face's hub as files: hf://datasets/ORG/NAME[@REVISION][/PATH].

PATH is what the path of a local source would be: a file, a folder or a pattern, with @SPLIT after
it ("hf://datasets/ORG/NAME/@validation" for the whole repository). Only what PATH needs is
downloaded: of parquet files named by splits the chosen split, and for texts with relative paths the
pictures and videos below their folder.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from owl_jax.data.sources.hugging_face import files_of_split
from owl_jax.data.sources.kinds import kind_of
from owl_jax.data.sources.media_suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from owl_jax.errors import UserError, listed
from owl_jax.hub.names import PROTOCOL, HubName, parse_name
from owl_jax.hub.snapshot import Snapshot, Tell, open_snapshot, tell

# Files whose records name their media by relative paths.
_TEXTS = (".jsonl", ".json", ".csv")


def local_source(spec: str, media_root: str, tell: Tell = tell) -> tuple[str, str]:
    """(source, base of its media) with what is on the hub downloaded; paths are unchanged.

    Raises UserError for a data set or a part of one that cannot be had.
    """
    has_root = bool(media_root)
    if media_root.startswith(PROTOCOL):
        media_root = str(data_path(media_root, tell))
    if spec.startswith(PROTOCOL):
        spec = _download_source(_data_set(spec), has_root, tell)
    return spec, media_root


def data_path(spec: str, tell: Tell = tell) -> Path:
    """A file with its media, or a folder with all that is below: a path, or the hub's, downloaded.

    Raises UserError for a data set or a part of one that cannot be had.
    """
    if not spec.startswith(PROTOCOL):
        return Path(spec)
    name = _data_set(spec)
    snapshot = open_snapshot(name)
    if name.path in snapshot.files:
        snapshot.download([glob.escape(name.path), *_media_of([name.path])], tell)
    else:
        _check_any(snapshot, snapshot.below(name.path))
        snapshot.download([_below(name.path)], tell)
    return snapshot.directory / name.path


def is_on_hub(spec: str) -> bool:
    """Whether a source is a data set of the hub. Raises UserError for a wrong spelling."""
    return spec.startswith(PROTOCOL) and bool(_data_set(spec))


def _data_set(spec: str) -> HubName:
    name = parse_name(spec)
    assert name is not None
    if name.kind != "dataset":
        raise UserError(f"{spec}: a model; expected {PROTOCOL}datasets/ORG/NAME[@REVISION][/PATH]")
    if re.search(r"\.py(:|$)", name.path):
        raise UserError(
            f"{spec}: Python code of the hub is not run; read it, and name a copy of it here"
        )
    return name


def _download_source(name: HubName, has_root: bool, tell: Tell) -> str:
    """Downloads what a source needs, and returns it as a local source."""
    snapshot = open_snapshot(name)
    path, at, split = name.path, "", None
    found = _matching(snapshot, path)
    if not found and "@" in path:
        path, at, split = path.rpartition("@")
        path = path.rstrip("/")
        found = _matching(snapshot, path)
    _check_any(snapshot, found)
    media = [] if has_root else _media_of(found)
    if glob.has_magic(path):
        wanted = [_as_fnmatch(path), *media]
    elif path in snapshot.files:
        wanted = [glob.escape(path), *media]
    else:
        wanted = _of_folder(path, found, split)
    snapshot.download(wanted, tell)
    folder = str(snapshot.directory)
    folder = glob.escape(folder) if glob.has_magic(path) else folder
    return f"{folder}/{path}{at}{split or ''}".rstrip("/")


def _matching(snapshot: Snapshot, path: str) -> list[str]:
    """The files that a path means: that file, those below a folder, or those of a pattern."""
    if path in snapshot.files:
        return [path]
    if below := snapshot.below(path):
        return [f"{path}/{file}" if path else file for file in below]
    if not glob.has_magic(path):
        return []
    found = [file for file in snapshot.files if fnmatchcase(file, _as_fnmatch(path))]
    is_deep = "**" in path
    return [file for file in found if is_deep or file.count("/") == path.count("/")]


def _as_fnmatch(pattern: str) -> str:
    """A pattern of glob as one of fnmatch, whose "*" matches slashes too."""
    return pattern.replace("**/", "*")


def _of_folder(folder: str, files: Sequence[str], split: str | None) -> list[str]:
    """The patterns for a folder: of all, or of the split that parquet files are named by."""
    # Beside data the hub keeps its card and Git's settings.
    data = [Path(file) for file in files if not Path(file).name.startswith((".", "README"))]
    if data and all(kind_of(path) == ".parquet" for path in data):
        return [glob.escape(str(path)) for path in files_of_split(data, split)]
    return [_below(folder)]


def _media_of(files: Sequence[str]) -> list[str]:
    """The patterns for the media that may belong to texts: those below their folders."""
    texts = [file for file in files if kind_of(Path(file)) in _TEXTS]
    return [
        f"{_below(folder)}.{_any_case(suffix)}"
        for folder in sorted({file.rpartition("/")[0] for file in texts})
        for suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    ]


def _any_case(suffix: str) -> str:
    return "".join(f"[{one}{one.upper()}]" if one.isalpha() else one for one in suffix)


def _below(folder: str) -> str:
    """The pattern of all files below a folder of a repository."""
    return f"{glob.escape(folder)}/*" if folder else "*"


def _check_any(snapshot: Snapshot, found: Sequence[str]) -> None:
    if not found:
        tops = sorted({path.partition("/")[0] for path in snapshot.files})
        raise UserError(f"{snapshot.name}: no such file or folder; there are {listed(tops)}")
