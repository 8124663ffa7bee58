"""WebDataset tars as records: members of one key are one sample (sources/samples.py).

A tar is read through once for the places of its members' headers. A record then costs the headers
of its members and its texts; pictures and videos stay where they are (FilePart) until they are
decoded.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from owl_jax.data.sources.record import FilePart, Record
from owl_jax.data.sources.samples import record_of_files, split_name
from owl_jax.data.sources.tar_index import CUT, count_samples, index_tar, load_index
from owl_jax.errors import BadData, UserError


@dataclass
class TarSource:
    """The samples of one or more tars, in the order of the tars and of the samples' first members.

    A tar that is cut short gives the samples before the cut, and one more record that is BadData.
    Compressed tars are refused: nothing in them can be read without reading what is before.

    Args:
      paths: of the tars.
      media_root: what paths inside a sample's .json are relative to.
      index_dir: where the places of members are kept for the next time (sources/tar_index.py).

    Raises UserError for a file that is no tar, and where no tar holds a sample.
    """

    paths: Sequence[Path]
    media_root: Path
    index_dir: Path | None = None
    # Of ten thousand tars not all can be open: an index is mapped while a record is looked for.
    _indices: list[Path | np.ndarray] = field(init=False, repr=False)
    _ends: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._indices = [index_tar(path, self.index_dir) for path in self.paths]
        self._ends = np.cumsum([count_samples(load_index(index)) for index in self._indices])
        if not len(self._ends) or self._ends[-1] == 0:
            raise UserError(
                f"{', '.join(map(str, self.paths[:3]))}: no samples; expected members such as "
                "KEY.jpg and KEY.txt"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        number = int(np.searchsorted(self._ends, index, side="right"))
        path, places = self.paths[number], load_index(self._indices[number])
        sample = index - (int(self._ends[number - 1]) if number else 0)
        samples = places[:, 1]
        if samples[-1] == CUT:
            if sample == count_samples(places) - 1:
                raise BadData(
                    "truncated file",
                    f"{path}: cut short after {sample} samples, at byte {places[-1, 0]}; the rest "
                    "of it is lost",
                )
            samples = samples[:-1]
        first, last = np.searchsorted(samples, [sample, sample + 1])
        try:
            with path.open("rb") as file:
                members = [_member(file, int(place)) for place in places[first:last, 0]]
        except (OSError, tarfile.TarError) as error:
            raise BadData("unreadable file", f"{path}: sample {sample} is gone ({error})") from None
        files: dict[str, Path | FilePart] = {}
        for member in members:
            key, extension = split_name(member.name) or ("", "")
            files[extension] = FilePart(path, member.offset_data, member.size, member.name)
        return record_of_files(files, f"{path}:{key}", self.media_root)


def _member(file: BinaryIO, place: int) -> tarfile.TarInfo:
    """The member whose header is at byte `place`. Raises tarfile.TarError if there is none."""
    file.seek(place)
    member = tarfile.TarFile(fileobj=file).next()
    if member is None:
        raise tarfile.ReadError(f"no header at byte {place}")
    return member
