"""SHA256SUMS: the hash of every file of a model directory, in the format of coreutils.

`sha256sum -c SHA256SUMS` checks what this module writes, and this module checks what sha256sum
writes. It also reads the MODEL.safetensors.sha256 files that some downloads have beside their
weights. A line is 64 hexadecimal digits, a space, a space or `*`, and a path below the directory;
if the line begins with a backslash, backslashes and line breaks in the path are escaped.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from owl_jax.checkpoint.schema import ADAPTER_FILE, CONFIG_FILE
from owl_jax.errors import UserError, listed, printable, shown
from owl_jax.files import open_regular

SUMS_FILE = "SHA256SUMS"
CARD = "README.md"  # which people edit on the hub

_SUMS_NAMES = (SUMS_FILE, "SHA256SUMS.txt", "sha256sums.txt")
_ONE_FILE = (".sha256", ".sha256sum")
# A list that names one of these covers the whole directory: unlisted files are errors.
_OF_THE_WHOLE = (CONFIG_FILE, ADAPTER_FILE)

_LINE = re.compile(rb"(\\?)([0-9a-fA-F]{64}) [ *](.+)", re.DOTALL)
_TAGGED = re.compile(rb"(\\?)SHA256 \((.+)\) = ([0-9a-fA-F]{64})", re.DOTALL)
_BARE = re.compile(rb"\s*([0-9a-fA-F]{64})\s*")
_ESCAPES = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}

_LARGEST_LIST = 1 << 26
_BUFFER = 1 << 22  # bytes
_THREADS = 8


@dataclass(frozen=True)
class Verified:
    """The result of `verify`: number of files, bytes and seconds."""

    files: int
    nbytes: int
    seconds: float
    unlisted: tuple[str, ...] = ()

    def __str__(self) -> str:
        rest = f"; not listed, not checked: {listed(self.unlisted)}" if self.unlisted else ""
        return f"{self.files} files, {self.nbytes / 1e9:.2f} GB, {self.seconds:.1f} s{rest}"


def write_checksums(directory: Path, known: Mapping[str, str] | None = None) -> None:
    """Writes SHA256SUMS of all files below `directory` but its card. Raises OSError.

    known: {path below it: hash} of files that are hashed already.
    """
    known = known or {}
    names = [name for name in _files_below(directory) if name not in (SUMS_FILE, CARD)]
    unknown = [name for name in names if name not in known]
    hashes = {**known, **dict(zip(unknown, _hash_all(directory, unknown), strict=True))}
    lines = [_line(name, hashes[name]) for name in names]
    (directory / SUMS_FILE).write_bytes(b"".join(lines))


def verify(directory: Path, progress: Callable[[int], None] = lambda nbytes: None) -> Verified:
    """Checks every file listed in the directory's checksums against its hash.

    progress: called with the bytes of each read.

    Raises UserError if there are no checksums, if they are damaged or name paths outside the
    directory, if a file differs or is missing, or if checksums of the whole directory omit a file.
    """
    start = time.monotonic()
    expected = _read_lists(directory)
    names = list(expected)
    unlisted = [name for name in _files_below(directory) if _matters(name, expected)]
    faults: dict[str, str] = {}

    def check(name: str) -> int:
        try:
            found, nbytes = _hash(directory / name, progress)
        except FileNotFoundError:
            faults[name] = "missing"
        except OSError as error:
            faults[name] = error.strerror or type(error).__name__
        else:
            if found != expected[name]:
                faults[name] = "differs"
            return nbytes
        return 0

    with ThreadPoolExecutor(_workers()) as pool:
        nbytes = sum(pool.map(check, names))
    whole = any(name in expected for name in _OF_THE_WHOLE)
    problems = [f"{name} ({faults[name]})" for name in names if name in faults]
    problems += [f"{name} (not listed)" for name in unlisted if whole and name != CARD]
    if problems:
        raise UserError(
            f"{directory}: does not match its {SUMS_FILE} ({len(problems)}): {listed(problems)}; "
            "copy the directory again or, if the change is yours, update it with sha256sum"
        )
    return Verified(len(names), nbytes, time.monotonic() - start, tuple(map(printable, unlisted)))


def is_list(name: str) -> bool:
    """Whether a file of this name lists hashes."""
    return name in _SUMS_NAMES or name.endswith(_ONE_FILE)


def listed_files(directory: Path) -> list[str]:
    """The paths that the directory's checksums list. Raises UserError as `verify` does."""
    return list(_read_lists(directory))


def _lists(directory: Path) -> list[Path]:
    whole = [directory / name for name in _SUMS_NAMES if os.path.lexists(directory / name)]
    if whole:
        return whole[:1]
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(_ONE_FILE))
    except OSError as error:
        raise UserError(f"{directory}: cannot be read ({error.strerror})") from None


def _read_lists(directory: Path) -> dict[str, str]:
    """{path below the directory: hash} of all listed files."""
    lists = _lists(directory)
    if not lists:
        raise UserError(
            f"{directory}: no {SUMS_FILE} to compare with; owl_jax writes one with every model, "
            "and sha256sum can create one for a directory that you trust"
        )
    expected: dict[str, str] = {}
    for path in lists:
        for name, digest in _read_list(path):
            if name == path.name:  # the shell created the list before sha256sum hashed it
                continue
            if expected.setdefault(name, digest) != digest:
                raise UserError(f"{path}: two hashes of {shown(name)}; expected one for each file")
    if not expected:
        raise UserError(f"{lists[0]}: lists no files; expected the output of sha256sum")
    return expected


def _read_list(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with open_regular(path) as file:
            data = file.read(_LARGEST_LIST + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > _LARGEST_LIST:
        raise UserError(f"{path}: over {_LARGEST_LIST >> 20} MiB; expected the output of sha256sum")
    bare = _BARE.fullmatch(data)
    if bare and path.suffix in _ONE_FILE:
        yield path.name.removesuffix(path.suffix), bare[1].decode().lower()
        return
    for number, line in enumerate(data.split(b"\n"), start=1):
        line = line.removesuffix(b"\r")
        if not line.strip() or line.startswith(b"#"):
            continue
        if found := _LINE.fullmatch(line):
            escaped, digest, name = found.groups()
        elif found := _TAGGED.fullmatch(line):
            escaped, name, digest = found.groups()
        else:
            raise UserError(
                f"{path}, line {number}: {shown(line)}; expected a SHA-256 and a file name, as in "
                "the output of sha256sum"
            )
        if escaped:
            name = re.sub(rb"\\[\\nr]", lambda match: _ESCAPES[match[0]], name)
        yield _inside(os.fsdecode(name), path, number), digest.decode().lower()


def _inside(name: str, path: Path, number: int) -> str:
    """Normalises a name. Raises UserError for one outside the directory."""
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts or not plain.parts or "\0" in name:
        raise UserError(f"{path}, line {number}: {shown(name)} is not a path below the directory")
    return str(plain)


def _line(name: str, digest: str) -> bytes:
    data = os.fsencode(name)
    escaped = data.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return b"%s%s  %s\n" % (b"\\" if escaped != data else b"", digest.encode(), escaped)


def _matters(name: str, expected: Mapping[str, str]) -> bool:
    """Whether an unlisted file counts: checksums, signatures and hidden files do not."""
    if name in expected or any(part.startswith(".") for part in name.split("/")):
        return False
    return name not in _SUMS_NAMES and not name.endswith((*_ONE_FILE, ".asc", ".sig"))


def _files_below(directory: Path) -> list[str]:
    """The sorted paths of all files below the directory, following linked folders."""
    found = []
    seen = set()
    for folder, folders, files in os.walk(directory, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        found += [os.path.relpath(Path(folder, file), directory) for file in files]
    return sorted(found)


def _hash_all(directory: Path, names: list[str]) -> list[str]:
    with ThreadPoolExecutor(_workers()) as pool:
        return [digest for digest, _ in pool.map(lambda name: _hash(directory / name), names)]


def _hash(path: Path, progress: Callable[[int], None] = lambda nbytes: None) -> tuple[str, int]:
    """(SHA-256, bytes) of a regular file; hashing releases the GIL."""
    digest, total = hashlib.sha256(), 0
    with open_regular(path) as file:
        while data := file.read(_BUFFER):
            digest.update(data)
            total += len(data)
            progress(len(data))
    return digest.hexdigest(), total


def _workers() -> int:
    return min(_THREADS, os.cpu_count() or 1)
