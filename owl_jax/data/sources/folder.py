"""A folder of media with their texts beside them, at any depth, as records.

Files of one key are one sample, as in a tar (sources/samples.py): "a.jpg" with "a.txt" or "a.json",
"b.mp4" with "b.txt". A folder of frames is a video: "clip/" with "clip.txt" or "clip.json" beside
it and nothing but pictures in it.
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
    is_part_of_a_sample,
    keys_of,
    record_of_files,
    suffix_of,
)
from owl_jax.errors import UserError
from owl_jax.files import is_directory
from owl_jax.media.video import natural_key

# Between the parts of a sample in the list of samples: no file's name can contain it.
_SEPARATOR = "\0"
# Stands among the extensions of a sample that has a folder of frames.
_FRAMES = "/"


@dataclass
class FolderSource:
    """The samples below a folder, folder by folder, in natural order ("f2" before "f10").

    The names of all files are read once, and nothing else until a record is asked for.

    Args:
      path: of the folder.
      media_root: what paths inside a sample's .json are relative to.

    Raises UserError for a folder that cannot be read or has no sample.
    """

    path: Path
    media_root: Path
    # For each sample: key relative to the folder, "/" if it has a folder of frames, extensions.
    # In one array, which is a tenth of what a million strings take.
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
                f"{self.path}: no samples; expected pictures or videos, each with a .txt or .json "
                "of the same name beside it"
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
            if extension != _FRAMES
        }
        return record_of_files(files, self.where(index), self.media_root, frames)

    def where(self, index: int) -> str:
        """FOLDER/KEY."""
        key, _ = self._sample(index)
        return str(self.path / key)

    def num_bytes(self) -> int:
        """Of the names: the texts would have to be asked for one by one."""
        return len(self._names)

    def _sample(self, index: int) -> tuple[str, list[str]]:
        """Its key and its extensions."""
        name = self._names[self._ends[index] : self._ends[index + 1]].tobytes()
        key, *extensions = os.fsdecode(name).split(_SEPARATOR)
        return key, extensions


def _samples(
    root: Path, prefix: str = "", above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, list[str]]]:
    """(key, extensions) of the samples in a folder, then in those below it.

    Args:
      prefix: of the keys, which are relative to `root`: "" or the folder and "/".
      above: device and number of the folders that this one is in. A link to one of them leads in a
        circle and is not followed.
    """
    status = (root / prefix).stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    samples: dict[str, list[str]] = {}
    names, folders = [], []
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            if _is_folder(entry):
                if not entry.name.startswith(".") and entry.name != "__MACOSX":
                    folders.append(entry.name)
            elif is_part_of_a_sample(entry.name):
                names.append(entry.name)
    for name, key in zip(names, keys_of(names), strict=True):
        samples.setdefault(key, []).append(extension_of(name, key))
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
    """Also of a link to one; False for a link that leads nowhere or to itself."""
    # Nothing is asked of the disk but for links: the folder may hold a million files.
    if entry.is_symlink():
        return is_directory(entry.path)
    return entry.is_dir(follow_symlinks=False)


def _take_texts(folder: Path, samples: dict[str, list[str]]) -> list[str]:
    """Takes the texts beside a folder of frames out of `samples`, and gives their extensions.

    samples: of the folder that it is in, by key. [] for any other folder.
    """
    own = samples.get(folder.name, [])
    if not own or any(suffix_of(name) not in TEXT_SUFFIXES for name in own):
        return []
    with os.scandir(folder) as entries:
        for entry in entries:
            is_frame = suffix_of(entry.name) in IMAGE_SUFFIXES and not _is_folder(entry)
            if not is_frame and not entry.name.startswith("."):
                return []
    return samples.pop(folder.name)
