"""Decodes images and videos to pixels, in threads or in worker processes.

Decoding comes after packing, so the number of threads or workers changes neither the order of the
data nor a checkpoint. Worker processes import this module: it must not import JAX.

Letters: T frames, S image side.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from owl_jax.data.drops import Dropped
from owl_jax.data.sources.record import Medium, Video
from owl_jax.errors import BadData
from owl_jax.media.augment import Augmentation
from owl_jax.media.image import Unusual, load_image, preprocess_image
from owl_jax.media.resizing import SQUASH, Resizing
from owl_jax.media.video import load_frames


@dataclass(frozen=True)
class Decoding:
    """Settings of decoding.

    size: S. frames: T of each video. seed: for the augmentation, if there is one.
    unusual: what to do with animated, CMYK and 16-bit images (media/image.py).
    decoder: "fast" decodes at a reduced size where the file format allows it.
    resizing: the model's (media/resizing.py).
    """

    size: int
    frames: int = 0
    augmentation: Augmentation | None = None
    seed: tuple[int, ...] = (0,)
    unusual: Unusual = "refuse"
    decoder: Literal["exact", "fast"] = "exact"
    resizing: Resizing = SQUASH


class Media(NamedTuple):
    """The encoded media of one conversation (data/conversations.py)."""

    number: int
    images: Sequence[Medium]
    videos: Sequence[Video]
    keep_places: bool
    where: str


class Pixels(NamedTuple):
    """images: uint8[k, S, S, 3]. videos: uint8[m, T, S, S, 3]."""

    images: np.ndarray
    videos: np.ndarray


def decode(settings: Decoding, media: Media) -> Pixels | Dropped:
    """Decodes the media of one conversation. The result depends on the arguments alone."""
    size, augmentation = settings.size, settings.augmentation
    resizing = settings.resizing
    random = np.random.default_rng((*settings.seed, media.number))
    side = None
    if settings.decoder == "fast":
        side = augmentation.smallest_side(size) if augmentation else size
    load = partial(load_image, unusual=settings.unusual, shrink_to=side)
    load_video = partial(load_frames, unusual=settings.unusual, shrink_to=side)

    def finish(frames: Sequence[Image.Image]) -> np.ndarray:
        if augmentation:
            return augmentation.augment(frames, size, random, media.keep_places, resizing)
        return np.stack([preprocess_image(frame, size, resizing) for frame in frames])

    try:
        images = [finish([load(image, media.where)])[0] for image in media.images]
        videos = [finish(load_video(video, settings.frames, media.where)) for video in media.videos]
    except BadData as error:
        return Dropped.of(error, media.where)
    return Pixels(
        np.array(images, np.uint8).reshape(len(images), size, size, 3),
        np.array(videos, np.uint8).reshape(len(videos), settings.frames, size, size, 3),
    )


def make_executor(threads: int, workers: int) -> Executor:
    """A pool of `workers` processes, or of `threads` threads if `workers` is 0.

    Threads are enough on most machines, since decoders release the GIL. Processes help on hosts
    with so many cores that the Python code around the decoders becomes the bottleneck. A script
    that uses processes must run its code under `if __name__ == "__main__":`, because each worker
    imports the script.
    """
    if workers:
        # JAX's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(workers, context, initializer=_exit_with_parent)
    return ThreadPoolExecutor(max(threads, 1), thread_name_prefix="decode")


def _exit_with_parent() -> None:
    """Makes a worker exit when its parent dies, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
