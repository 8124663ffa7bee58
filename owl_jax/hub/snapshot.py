"""Files of a repository at one commit, downloaded into huggingface_hub's cache.

The library does the work: other programs share its cache, and its variables hold (HF_ENDPOINT,
HF_TOKEN, HF_HUB_OFFLINE, HF_HOME). It resumes a transfer that breaks off, but does not compare
contents: this module does, once for each downloaded file. It also lets one process of a machine
download while the others wait, and turns the library's errors into one line each.

The library is imported when a name of the hub is used: it takes 0.4 s.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import translate
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from owl_jax.errors import UserError, listed, printable
from owl_jax.files import write_whole
from owl_jax.hub.errors import as_user_errors
from owl_jax.hub.names import PROTOCOL, HubName, is_ambiguous

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

Tell = Callable[[str], None]

_THREADS = 8
_FEW = 4  # files that a message names
_SMALL = 1_000_000  # bytes that are downloaded without a word


def tell(text: str) -> None:
    """Tells the user about a download, or about a name that has two meanings."""
    print(printable(f"note: {text}"), file=sys.stderr, flush=True)


@contextmanager
def bars_on_a_terminal(wanted: bool = True) -> Iterator[None]:
    """Shows the library's progress bars if they are wanted, but not in a log."""
    from huggingface_hub.utils import disable_progress_bars

    if wanted and sys.stderr.isatty():
        yield
    else:
        with disable_progress_bars():
            yield


def tell_if_ambiguous(value: str | os.PathLike[str], tell: Tell = tell) -> None:
    """Tells that a path is taken which would else be a name of the hub."""
    if is_ambiguous(value):
        tell(f"{value} is a path here; the hub's would be {PROTOCOL}{value}")


class Snapshot:
    """A repository at a commit.

    name: with the commit as its revision. files: the sizes in bytes by path. directory: its place
    in the cache, which has only what was downloaded.

    A list beside the lock names the files that are being downloaded: until they are compared they
    count as missing, also after a kill.
    """

    def __init__(self, name: HubName, files: Mapping[str, int]) -> None:
        self.name, self.files = name, files
        self.directory = name.directory(_cache())
        self._locks = _cache() / ".locks" / self.directory.parts[-3]
        self._list_of_unchecked = self._locks / f"{name.revision}.unchecked"

    @cached_property
    def _hashes(self) -> dict[str, RepoFile]:
        """What the hub tells about each file; the library's cache leaves hashes out."""
        return {file.path: file for file in _list(self.name)}

    def below(self, folder: str) -> list[str]:
        """The paths below a folder, relative to it; "" is the repository."""
        start = f"{folder}/" if folder else ""
        return [path.removeprefix(start) for path in self.files if path.startswith(start)]

    def download(self, patterns: Iterable[str], tell: Tell = tell) -> None:
        """Makes the files that match any of the patterns present; "*" matches slashes too.

        Raises UserError, and leaves complete files for the next call.
        """
        patterns = list(patterns)
        if not self._missing(patterns):
            return
        from huggingface_hub.utils import WeakFileLock

        with as_user_errors(self.name):
            self._locks.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(self._locks / "owl-jax.lock"):
                if missing := self._missing(patterns):  # no other process has downloaded them
                    self._download(missing, patterns, tell)

    def _missing(self, patterns: Sequence[str]) -> list[str]:
        wanted = re.compile("|".join(map(translate, patterns)) or r"(?!)")
        unchecked = self._unchecked
        return [
            path
            for path in self.files
            if wanted.match(path) and (path in unchecked or not (self.directory / path).exists())
        ]

    @property
    def _unchecked(self) -> set[str]:
        """The files that a process is downloading, or was when it was killed."""
        try:
            return set(json.loads(self._list_of_unchecked.read_bytes()))
        except FileNotFoundError:
            return set()

    def _download(self, missing: Sequence[str], patterns: Sequence[str], tell: Tell) -> None:
        from huggingface_hub import snapshot_download

        # Other revisions may have brought the same contents.
        contents, hashes = self.directory.parents[1] / "blobs", self._hashes
        absent = [path for path in missing if not (contents / _etag(hashes[path])).exists()]
        new = sorted({*absent, *self._unchecked.intersection(missing)})
        nbytes = sum(self.files[path] for path in absent)
        _check_room(self.name, nbytes)
        if nbytes > _SMALL:
            count = "1 file" if len(absent) == 1 else f"{len(absent):,} files"
            tell(f"{self.name}: downloading {count}, {nbytes / 1e6:,.1f} MB, into {_cache()}")
        write_whole(self._list_of_unchecked, json.dumps(sorted({*new, *self._unchecked})))
        with bars_on_a_terminal(nbytes > _SMALL):
            snapshot_download(
                self.name.repo,
                repo_type=self.name.kind,
                revision=self.name.revision,
                allow_patterns=list(patterns),
                library_name="owl_jax",
            )
        with ThreadPoolExecutor(_THREADS) as pool:
            intact = pool.map(lambda path: _is_intact(self.directory / path, hashes[path]), new)
            broken = [path for path, good in zip(new, intact, strict=True) if not good]
        for path in broken:
            _remove(self.directory / path)
        if rest := self._unchecked.difference(new):
            write_whole(self._list_of_unchecked, json.dumps(sorted(rest)))
        else:
            self._list_of_unchecked.unlink()
        if broken:
            raise UserError(
                f"{self.name}: the download of {listed(broken, _FEW)} is broken: its size or hash "
                "is not what the hub lists; run the same command again"
            )


def open_snapshot(name: HubName) -> Snapshot:
    """The repository at the commit that its revision means now, without its files.

    Without the network, what the revision meant last. Raises NotOnHub if there is no such
    repository or revision, and UserError.
    """
    import httpx2
    from huggingface_hub import constants, get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, OfflineModeIsEnabled

    with as_user_errors(name):
        if not name.is_pinned:
            resolved = _api().resolve_revision(
                name.repo,
                repo_type=name.kind,
                revision=name.revision,
                local_files_only=constants.HF_HUB_OFFLINE,
            )
            name = name.at(resolved.resolved)
        try:
            tree = get_cached_repo_tree(name.repo, repo_type=name.kind, revision=name.revision)
        except CachedRepoTreeNotFoundError:
            try:
                tree = _list(name)
            except (httpx2.TransportError, OfflineModeIsEnabled):
                # An older library may have filled the cache, without a listing.
                if not (files := _files_below(name.directory(_cache()))):
                    raise
                return Snapshot(name, files)
    return Snapshot(name, {file.path: file.size for file in tree})


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="owl_jax")


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser().absolute()


def _list(name: HubName) -> list[RepoFile]:
    from huggingface_hub import RepoFile

    tree = _api().list_repo_tree(
        name.repo, recursive=True, revision=name.revision, repo_type=name.kind
    )
    return [entry for entry in tree if isinstance(entry, RepoFile)]


def _files_below(directory: Path) -> dict[str, int]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in paths}


def _check_room(name: HubName, nbytes: int) -> None:
    """Raises UserError if the cache's disk has too little room."""
    cache = _cache()
    folder = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise UserError(
            f"{name}: {nbytes / 1e9:.2f} GB to download, but {cache} has {free / 1e9:.2f} GB of "
            "free space; free some, or set HF_HOME to a folder on another disk"
        )


def _etag(file: RepoFile) -> str:
    """The name of a file's content in the cache."""
    return file.lfs.sha256 if file.lfs else file.blob_id


def _is_intact(path: Path, file: RepoFile) -> bool:
    """Whether a downloaded file has the size and a hash that the hub tells.

    It tells SHA-256, or Git's hash of small files; servers like it may tell SHA-1 instead. Its
    ETag is the name of the content in the cache.
    """
    size = path.stat().st_size
    told = {file.blob_id, path.resolve().name, file.lfs.sha256 if file.lfs else ""}
    if sha256 := {one for one in told if re.fullmatch(r"[0-9a-f]{64}", one)}:
        return size == file.size and _digest(path, hashlib.sha256()) in sha256
    sha1 = {one for one in told if re.fullmatch(r"[0-9a-f]{40}", one)}
    starts = (f"blob {size}\0".encode(), b"")
    matches = any(_digest(path, hashlib.sha1(start)) in sha1 for start in starts)
    return size == file.size and (matches or not sha1)


def _digest(path: Path, begun: hashlib._Hash) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: begun).hexdigest()


def _remove(path: Path) -> None:
    """Removes a file of the cache, which is a link to its content."""
    content = path.resolve()
    path.unlink()
    content.unlink(missing_ok=True)
