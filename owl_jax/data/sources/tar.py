"""Reads WebDataset tars: members of one key are one sample (sources/samples.py).

One scan of a tar indexes the headers of its members. Accessing a record reads its headers and its
text; images and videos are FileParts until they are decoded.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from owl_jax.data.sources.index import bytes_of
from owl_jax.data.sources.record import FilePart, Record
from owl_jax.data.sources.samples import (
    extension_of,
    is_sample_file,
    keys_of,
    may_hold_medium,
    record_of_files,
)
from owl_jax.data.sources.tar_index import CUT, count_samples, index_tar, is_readable, load_index
from owl_jax.errors import BadData, UserError
from owl_jax.files import open_regular


@dataclass
class TarSource:
    """The samples of one or more tars, in the order of the tars and of the samples' first members.

    A tar that is cut short gives the samples before the cut, then one record that raises BadData.
    Compressed tars are refused, because they have no random access.

    Args:
      paths: of the tars.
      media_root: base of relative paths in a .json.
      index_dir: where the index of members is stored for later runs (sources/tar_index.py).

    Raises UserError for a file that is not a tar, and if there are no samples.
    """

    paths: Sequence[Path]
    media_root: Path
    index_dir: Path | None = None
    # Ten thousand indices cannot all be open, so each is mapped only during a lookup.
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
        path, sample, headers, is_cut = self._find(index)
        if is_cut:
            raise BadData(
                "truncated file",
                f"{self.where(index)}: cut short after {sample} samples; the rest is lost",
            )
        try:
            members, others = _members(path, headers)
            keys = set(keys_of([member.name for member in members]))
            if len(keys) > 1:
                raise tarfile.ReadError("its members have changed")
        except (OSError, tarfile.TarError) as error:
            message = f"{self.where(index)}: gone, or changed while it was in use ({error})"
            raise BadData("unreadable file", message) from None
        (key,) = keys
        files = {extension_of(member.name, key): member for member in members}
        where = f"{path}:{key}"
        if len(files) < len(members):
            raise BadData(
                "double member",
                f"{where}: the tar has several members of the same name; give each sample a unique "
                "name",
            )
        beside = [extension_of(name, key) for name in others]
        return record_of_files(files, where, self.media_root, beside=beside)

    def where(self, index: int) -> str:
        """TAR:KEY, or "TAR:byte NUMBER" if the tar ends early or a header cannot be read."""
        path, _, headers, is_cut = self._find(index)
        if not is_cut:
            try:
                members, _ = _members(path, headers)
                return f"{path}:{keys_of([member.name for member in members])[0]}"
            except (OSError, tarfile.TarError):
                pass
        return f"{path}:byte {headers[0]}"

    def num_bytes(self) -> int:
        """Total size of the tars."""
        return bytes_of(self.paths)

    def _find(self, index: int) -> tuple[Path, int, list[int], bool]:
        """(tar, index of the sample in it, byte offsets of its headers, whether it is cut off).

        If the record is cut off, the only offset is that of the first missing byte.
        """
        number = int(np.searchsorted(self._ends, index, side="right"))
        path, headers = self.paths[number], load_index(self._indices[number])
        sample = index - (int(self._ends[number - 1]) if number else 0)
        samples = headers[:, 1]
        if samples[-1] == CUT:
            if sample == count_samples(headers) - 1:
                return path, sample, [int(headers[-1, 0])], True
            samples = samples[:-1]
        first, last = np.searchsorted(samples, [sample, sample + 1])
        return path, sample, headers[first:last, 0].tolist(), False


def _members(path: Path, headers: Sequence[int]) -> tuple[list[FilePart], list[str]]:
    """(members of the sample whose headers are at these bytes, names of members not read).

    Raises OSError, and tarfile.TarError if a header is not a sample's.
    """
    members, others = [], []
    with open_regular(path) as file:
        for header in headers:
            file.seek(header)
            member = tarfile.TarFile(fileobj=file).next()
            if member is not None and is_sample_file(member.name) and is_readable(member):
                members.append(FilePart(path, member.offset_data, member.size, member.name))
            elif member is not None and may_hold_medium(member.name):
                others.append(member.name)
            else:
                raise tarfile.ReadError(f"no member of a sample at byte {header}")
    if not members:
        raise tarfile.ReadError(f"no member of a sample at byte {headers[0]}")
    return members, others
