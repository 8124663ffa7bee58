"""The pictures and videos of questions: which are missing, their hashes, their pixels.

Letters: T frames, S image side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from owl_jax.errors import BadData
from owl_jax.evaluation.benchmark import Medium
from owl_jax.files import bad_file, open_regular
from owl_jax.media.image import load_image, preprocess_image
from owl_jax.media.resizing import Resizing
from owl_jax.media.video import frame_files, load_video


def missing(medium: Medium) -> Path | None:
    """The first file or folder of a medium that is not there."""
    return next((path for path in _paths(medium) if not path.exists()), None)


def digest(medium: Medium) -> str:
    """Hash of a medium's files, without decoding them, and of the part that is used.

    Equal only for equal pixels, as far as the same model and number of frames are asked. Raises
    BadData for a file that cannot be read.
    """
    found = hashlib.sha256(json.dumps([medium.kind, medium.start, medium.end]).encode())
    for data in _files(medium):
        found.update(hashlib.sha256(data).digest())
    return found.hexdigest()


def pixels(medium: Medium, num_frames: int, size: int, resizing: Resizing) -> np.ndarray:
    """uint8[S, S, 3] of a picture, uint8[T, S, S, 3] of a video. Raises BadData."""
    source = medium.source
    if medium.kind == "video":
        interval = medium.start, medium.end
        return load_video(source, num_frames, size, resizing=resizing, interval=interval)
    if isinstance(source, tuple):
        raise BadData("not a picture", "a picture is given as several files; expected one")
    return preprocess_image(load_image(source), size, resizing)


def _paths(medium: Medium) -> list[Path]:
    sources = medium.source if isinstance(medium.source, tuple) else (medium.source,)
    return [source for source in sources if isinstance(source, Path)]


def _files(medium: Medium) -> Iterator[bytes]:
    """The bytes of a medium's files, in order."""
    for source in medium.source if isinstance(medium.source, tuple) else (medium.source,):
        if isinstance(source, bytes):
            yield source
            continue
        try:
            for path in frame_files(source) if source.is_dir() else [source]:
                with open_regular(path) as file:
                    yield file.read()
        except OSError as error:
            raise bad_file(error) from error
