"""Groups the files of tars (WebDataset) and folders into samples by their names.

A text and the media with its name form a sample: "train/01.jpg" and "train/01.txt". The sample's
key is the name of the text without the suffix. Dots are part of a name: "Dr. A.jpg" belongs to
"Dr. A.txt". If there is a text "01.txt", "01.0.jpg" and "01.1.jpg" are two images of its sample.
The last suffix decides the kind: .txt is a caption; .json is an example in one of the forms of
sources/values.py, and its conversation has precedence over the caption. "01.jpg.txt" is the text of
"01.jpg" if no other file has that name. Other files and hidden files are ignored, but a file that
may be the image of a text ("01.npy" beside "01.txt") is reported.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from owl_jax.data.sources.media_keys import media_kind
from owl_jax.data.sources.media_suffixes import (
    IMAGE_SUFFIXES,
    UNREAD_SUFFIXES,
    VIDEO_SUFFIXES,
)
from owl_jax.data.sources.record import FilePart, Record, check_size
from owl_jax.data.sources.values import record_from
from owl_jax.errors import BadData, listed, printable
from owl_jax.files import bad_file, each_key_once, open_regular
from owl_jax.media.video import natural_key

TEXT_SUFFIXES = ("json", "txt")
# Suffixes of files that hold no image.
_HARMLESS = frozenset(
    """
    cls cls2 count csv csv2 htm html id ids idx index inx jsonl key lock log md md5 meta sha1 sha256
    srt text tsv url vtt xml xmp yaml yml
    """.split()  # noqa: SIM905
)
_NUMBER = re.compile(r"[\w-]{1,40}")  # distinguishes the media of one sample
_SUFFIXES = frozenset(IMAGE_SUFFIXES + VIDEO_SUFFIXES + TEXT_SUFFIXES + UNREAD_SUFFIXES)


def is_sample_file(path: str) -> bool:
    """Whether the file at this relative path, with slashes, may belong to a sample."""
    parts = _parts(path)
    # macOS adds "._01.jpg" and "__MACOSX" to its tars.
    if not parts or any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return False
    return "." in parts[-1] and suffix_of(parts[-1]) in _SUFFIXES


def may_hold_medium(path: str) -> bool:
    """Whether a file that is not read may hold the medium of the text with its name."""
    parts = _parts(path)
    if not parts or any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return False
    return "." in parts[-1].strip(".") and suffix_of(parts[-1]) not in _HARMLESS


def keys_of_others(others: Sequence[str], paths: Sequence[str]) -> list[str | None]:
    """For each of `others`, the key of the text in `paths` that has its name, or None.

    others: paths that `may_hold_medium` accepts.
    """
    stems, keys = map(_stem, paths), keys_of(paths)
    of_text = {
        stem: key
        for stem, key, path in zip(stems, keys, paths, strict=True)
        if suffix_of(path) in TEXT_SUFFIXES
    }
    return [of_text.get(_text_of(_stem(path), of_text.keys())) for path in others]


def keys_of(paths: Sequence[str]) -> list[str]:
    """The key of each file's sample.

    paths: all files that may share a key; relative, with slashes, accepted by `is_sample_file`.
    """
    stems = [_stem(path) for path in paths]
    texts = {
        stem for stem, path in zip(stems, paths, strict=True) if suffix_of(path) in TEXT_SUFFIXES
    }
    keys = [
        stem if suffix_of(path) in TEXT_SUFFIXES else _text_of(stem, texts)
        for stem, path in zip(stems, paths, strict=True)
    ]
    # "01.jpg.txt" beside "01.jpg", unless "01" has a text or another medium of its own.
    media = Counter(key for key in keys if key not in texts)
    whole = {"/".join(_parts(path)): key for path, key in zip(paths, keys, strict=True)}
    return [whole[key] if key in whole and media[whole[key]] == 1 else key for key in keys]


def extension_of(path: str, key: str) -> str:
    """The rest of a file's name after the key of its sample: "0.jpg" of "01.0.jpg"."""
    return "/".join(_parts(path))[len(key) + 1 :]


def _stem(path: str) -> str:
    return "/".join(_parts(path)).rpartition(".")[0]


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _text_of(stem: str, texts: Set[str]) -> str:
    """The longest key of a text that a medium may belong to; its own stem if there is none."""
    key = stem
    while key not in texts:
        key, dot, number = key.rpartition(".")
        # "01.0" is an image of "01", but "Dr. A" is not one of "Dr".
        if not dot or not _NUMBER.fullmatch(number):
            return stem
    return key


def suffix_of(extension: str) -> str:
    """The last part of an extension, in lower case: "jpg" of "0.JPG"."""
    return extension.rpartition(".")[2].lower()


def record_of_files(
    files: Mapping[str, Path | FilePart],
    where: str,
    media_root: Path,
    frames: Path | None = None,
    beside: Sequence[str] = (),
) -> Record:
    """The record of one sample.

    Args:
      files: the sample's files by extension.
      media_root: base of relative paths in a .json.
      frames: a folder of frames that is the sample's video.
      beside: extensions of unread files with the sample's name: "npy", or "jpg" of a link.

    Raises BadData if the text or the media are missing, and for duplicate or malformed texts.
    """
    ordered = sorted(files, key=natural_key)
    images = [files[name] for name in ordered if suffix_of(name) in IMAGE_SUFFIXES]
    videos = [files[name] for name in ordered if suffix_of(name) in VIDEO_SUFFIXES]
    if frames is not None:
        videos.append(frames)
    values: dict[str, Any] = {}
    for suffix in TEXT_SUFFIXES:
        found = [files[name] for name in ordered if suffix_of(name) == suffix]
        if len(found) > 1:
            raise BadData("double text", f"{where}: {len(found)} .{suffix} files; expected one")
        for file in found:
            text = _read(file, f"{where}: the .{suffix}")
            values |= _from_json(text, where) if suffix == "json" else {"caption": text.strip()}
    if not values:
        raise BadData("no text", f"{where}: no .txt or .json of this name")
    unread = [suffix_of(name) for name in ordered if suffix_of(name) in UNREAD_SUFFIXES]
    has_media = images or videos or any(map(media_kind, values, values.values()))
    if unread and not has_media:
        message = f"{where}: its picture is .{unread[0]}, which is not read; convert it to JPEG"
        raise BadData("unsupported format", message)
    if beside and not has_media:
        names = listed((f".{printable(name)}" for name in beside), 4)
        raise BadData(
            "unread medium",
            f"{where}: {names} beside its text is not read; expected a picture or video in a "
            "regular file (not a link, folder or archive), or no other file of this name",
        )
    if not images and not videos and values.keys() == {"caption"}:
        raise BadData("no media", f"{where}: a caption, but no picture or video of this name")
    # Media files of the sample replace the media in its .json: those are often paths on another
    # machine.
    for kind, media in (("image", images), ("video", videos)):
        if media:
            named = [key for key, value in values.items() if media_kind(key, value) == kind]
            values = {key: value for key, value in values.items() if key not in named}
            values[kind] = media
    record = record_from(values, where, media_root)
    if beside:
        record["unread"] = (*record.get("unread", ()), *(f".{name}" for name in beside))
    return record


def _from_json(text: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError) as error:
        raise BadData("malformed record", f"{where}: the .json is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise BadData(
            "malformed record",
            f"{where}: the .json holds a {type(values).__name__}; expected an object",
        )
    return values


def _read(file: Path | FilePart, name: str) -> str:
    try:
        if isinstance(file, FilePart):
            check_size(file.size, name)
            return file.read().decode("utf-8-sig")
        with open_regular(file) as opened:
            check_size(os.fstat(opened.fileno()).st_size, name)
            return opened.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData("invalid UTF-8", f"{name} is not UTF-8 ({error})") from None
    except OSError as error:
        reason = bad_file(error).reason
        raise BadData(reason, f"{name} cannot be read ({error.strerror})") from None
    except BadData as error:  # a FilePart does not know the sample
        if str(error).startswith(name):
            raise
        raise BadData(error.reason, f"{name}: {error}") from None
