"""Reads a folder of media with text files of the same names, at any depth.

Files of one key are one sample, as in a tar (sources/samples.py): "a.jpg" with "a.txt" or "a.json",
"b.mp4" with "b.txt". A folder of frames is a video: "clip/" next to "clip.txt" or "clip.json", with
images but no text, video or folder in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from owl_jax.data.sources.media_suffixes import IMAGE_SUFFIXES
from owl_jax.data.sources.record import Record
from owl_jax.data.sources.samples import (
    TEXT_SUFFIXES,
    extension_of,
    is_sample_file,
    keys_of,
    keys_of_others,
    may_hold_medium,
    record_of_files,
    suffix_of,
)
from owl_jax.errors import UserError
from owl_jax.files import is_directory
from owl_jax.media.video import natural_key

# Between key and extensions in the list of samples; no file name can contain it.
_SEPARATOR = "\0"
# An extension that marks a sample with a folder of frames.
_FRAMES = "/"


@dataclass
class FolderSource:
    """The samples below a folder, folder by folder, in natural order ("f2" before "f10").

    Reads all file names once, and file contents only when a record is accessed.

    Args:
      path: of the folder.
      media_root: base of relative paths in a .json.

    Raises UserError for a folder that cannot be read or has no samples.
    """

    path: Path
    media_root: Path
    # For each sample: key relative to the folder, "/" if it has a folder of frames, extensions.
    # One array takes a tenth of the memory that a million strings would.
    _names: np.ndarray = field(init=False, repr=False)
    _ends: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names, ends = bytearray(), [0]
        try:
            for key, extensions in _samples(self.path):
                names += os.fsencode(_SEPARATOR.join([key, *extensions]))
                ends.append(len(names))
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
        if len(ends) == 1:
            raise UserError(
                f"{self.path}: no samples; expected pictures or videos, each next to a .txt or "
                ".json of the same name"
            )
        self._names, self._ends = np.frombuffer(bytes(names), np.uint8), np.asarray(ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Record:
        key, extensions = self._sample(index)
        path = self.path.absolute() / key
        frames = path if _FRAMES in extensions else None
        files = {
            extension: path.with_name(f"{path.name}.{extension}")
            for extension in extensions
            if extension != _FRAMES and is_sample_file(f"_.{extension}")
        }
        beside = [extension for extension in extensions if extension not in {*files, _FRAMES}]
        return record_of_files(files, self.where(index), self.media_root, frames, beside)

    def where(self, index: int) -> str:
        """FOLDER/KEY."""
        key, _ = self._sample(index)
        return str(self.path / key)

    def num_bytes(self) -> int:
        """Size of the names only, because the size of each file would take a system call."""
        return len(self._names)

    def _sample(self, index: int) -> tuple[str, list[str]]:
        """(key, extensions) of a sample."""
        name = self._names[self._ends[index] : self._ends[index + 1]].tobytes()
        key, *extensions = os.fsdecode(name).split(_SEPARATOR)
        return key, extensions


def _samples(
    root: Path, prefix: str = "", above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, list[str]]]:
    """(key, extensions) of the samples in a folder, then in its subfolders.

    Args:
      prefix: of the keys: the folder relative to `root`, followed by "/"; "" for `root` itself.
      above: (device, inode) of the parent folders. A link to one of them is a cycle and is not
        followed.
    """
    status = (root / prefix).stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    samples: dict[str, list[str]] = {}
    names, others, folders = [], [], []
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            if _is_folder(entry):
                if not entry.name.startswith(".") and entry.name != "__MACOSX":
                    folders.append(entry.name)
            elif is_sample_file(entry.name):
                names.append(entry.name)
            elif may_hold_medium(entry.name):
                others.append(entry.name)
    for name, key in zip(names, keys_of(names), strict=True):
        samples.setdefault(key, []).append(extension_of(name, key))
    # A folder named like an image is reported when its sample is read.
    others += [name for name in folders if is_sample_file(name)]
    for name, text in zip(others, keys_of_others(others, names), strict=True):
        if text is not None:
            samples[text].append(extension_of(name, text))
    below = []
    for name in sorted(folders, key=natural_key):
        texts = _take_texts(root / prefix / name, samples)
        if texts:
            samples[name] = [*texts, _FRAMES]
        else:
            below.append(name)
    for key in sorted(samples, key=natural_key):
        yield prefix + key, sorted(samples[key])
    for name in below:
        yield from _samples(root, f"{prefix}{name}/", (*above, here))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also true of a link to a folder; False for a broken link or a link to itself."""
    # Only links need a system call; the folder may have a million files.
    if entry.is_symlink():
        return is_directory(entry.path)
    return entry.is_dir(follow_symlinks=False)


def _take_texts(folder: Path, samples: dict[str, list[str]]) -> list[str]:
    """Removes the texts of a folder of frames from `samples`, and returns their extensions.

    samples: those of its parent folder, by key. Returns [] for a folder that does not hold frames.
    """
    texts = samples.get(folder.name, [])
    if not texts or any(suffix_of(name) not in TEXT_SUFFIXES for name in texts):
        return []
    has_frames = has_others = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            is_folder = _is_folder(entry)
            if suffix_of(entry.name) in IMAGE_SUFFIXES and not is_folder:
                has_frames = True
            elif is_folder or is_sample_file(entry.name):
                return []
            else:  # notes, thumbnails of a file manager
                has_others = True
    return samples.pop(folder.name) if has_frames or not has_others else []
