"""Files that are one sample by their names: what tars (WebDataset) and folders have in common.

A text and the media of its name are one sample: "train/01.jpg" and "train/01.txt". Its key is the
text's name without its suffix, and dots are part of a name: "Dr. A.jpg" has "Dr. A.txt". Where the
text is "01.txt", "01.0.jpg" and "01.1.jpg" are two pictures of one sample. Pictures and videos are
told by the last suffix; .txt is a caption; .json holds values as a line of JSON Lines does
(sources/values.py), of which conversations come before the caption. "01.jpg.txt" is the text of
"01.jpg" where that is the only one of its name. Other files are passed over, and so are hidden
ones; but beside a text, what might hold its picture ("01.npy") is never passed over in silence.
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
# Files beside a sample that hold no picture.
_HARMLESS = frozenset(
    """
    cls cls2 count csv csv2 htm html id ids idx index inx jsonl key lock log md md5 meta sha1 sha256
    srt text tsv url vtt xml xmp yaml yml
    """.split()  # noqa: SIM905
)
_NUMBER = re.compile(r"[\w-]{1,40}")  # what tells the media of one sample from each other
_SUFFIXES = frozenset(IMAGE_SUFFIXES + VIDEO_SUFFIXES + TEXT_SUFFIXES + UNREAD_SUFFIXES)


def is_part_of_a_sample(path: str) -> bool:
    """Whether a file of this name, relative and with slashes, may belong to a sample."""
    parts = _parts(path)
    # "._01.jpg" and "__MACOSX" are what macOS adds to the tars that it writes.
    if not parts or any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return False
    return "." in parts[-1] and suffix_of(parts[-1]) in _SUFFIXES


def may_lie_beside(path: str) -> bool:
    """Whether a file of this name, if its key is a text's, may hold what the text is about."""
    parts = _parts(path)
    if not parts or any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return False
    return "." in parts[-1].strip(".") and suffix_of(parts[-1]) not in _HARMLESS


def keys_beside(others: Sequence[str], paths: Sequence[str]) -> list[str | None]:
    """The key of the text in `paths` that each of `others` lies beside, None for none of them.

    others: each `may_lie_beside`.
    """
    stems, keys = map(_stem, paths), keys_of(paths)
    of_text = {
        stem: key
        for stem, key, path in zip(stems, keys, paths, strict=True)
        if suffix_of(path) in TEXT_SUFFIXES
    }
    return [of_text.get(_text_of(_stem(path), of_text.keys())) for path in others]


def keys_of(paths: Sequence[str]) -> list[str]:
    """The key of each file's sample; all files that may share one have to be there.

    paths: relative, with slashes, each `is_part_of_a_sample`.
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
    """What a file's name adds to the key of its sample: "0.jpg" of "01.0.jpg"."""
    return "/".join(_parts(path))[len(key) + 1 :]


def _stem(path: str) -> str:
    return "/".join(_parts(path)).rpartition(".")[0]


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _text_of(stem: str, texts: Set[str]) -> str:
    """The key of the text that a medium belongs to, the longest; its own stem if there is none."""
    key = stem
    while key not in texts:
        key, dot, number = key.rpartition(".")
        # "01.0" is a picture of "01"; "Dr. A" is none of "Dr".
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
      files: by extension, of one key.
      media_root: what paths inside a .json are relative to.
      frames: a folder of frames that is the sample's video.
      beside: extensions of what else has its name and is not read: "npy", or "jpg" for a link.

    Raises BadData where texts or media are missing, and for texts that are double or malformed.
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
            words = _read(file, f"{where}: the .{suffix}")
            values |= _from_json(words, where) if suffix == "json" else {"caption": words.strip()}
    if not values:
        raise BadData("no text", f"{where}: no .txt or .json of this name beside it")
    unread = [suffix_of(name) for name in ordered if suffix_of(name) in UNREAD_SUFFIXES]
    is_shown = images or videos or any(map(media_kind, values, values.values()))
    if unread and not is_shown:
        message = f"{where}: its picture is .{unread[0]}, which is not read; convert it to JPEG"
        raise BadData("unsupported format", message)
    if beside and not is_shown:
        names = listed((f".{printable(name)}" for name in beside), 4)
        raise BadData(
            "unread medium",
            f"{where}: beside its text is {names}, which is not read; expected a picture or video "
            "in a file (no link, folder or archive), or nothing of this name",
        )
    if not images and not videos and values.keys() == {"caption"}:
        raise BadData("no media", f"{where}: a caption, but no picture or video of this name")
    # Pictures and videos of the sample come before what its .json says: that is where they came
    # from, a path on another machine.
    for kind, media in (("image", images), ("video", videos)):
        if media:
            named = [key for key, value in values.items() if media_kind(key, value) == kind]
            values = {key: value for key, value in values.items() if key not in named}
            values[kind] = media
    record = record_from(values, where, media_root)
    if beside:
        record["unread"] = (*record.get("unread", ()), *(f".{name}" for name in beside))
    return record


def _from_json(words: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(words, object_pairs_hook=each_key_once)
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
    except BadData as error:  # of a FilePart, which does not know the sample
        if str(error).startswith(name):
            raise
        raise BadData(error.reason, f"{name}: {error}") from None
