"""Reads the size of a picture or video from its header, without decoding it."""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

from owl_jax.media.container import stated_video
from owl_jax.media.image import read_image


class Stated(NamedTuple):
    """What a file says of itself. frames: 1 for a still picture; 0 if a video does not say."""

    width: int
    height: int
    frames: int


def stated_size(data: bytes) -> Stated | None:
    """The size of a picture or video of any readable format; None if the file has none."""
    try:
        return read_image(
            BytesIO(data), lambda image: Stated(*image.size, getattr(image, "n_frames", 1))
        )
    except Exception:  # on a damaged file Pillow raises any exception
        found = stated_video(data)
        return None if found is None else Stated(*found)
