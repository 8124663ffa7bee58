"""Speed of decoding and resizing JPEGs: Pillow exact and scaled, simplejpeg, OpenCV.

    python benchmarks/image_decoding.py [--size=224] [--pictures=8] [--quality=87] [--rounds=9]

Times the conversion of file bytes to uint8[S, S, 3], on one thread, then on one thread per core.
"Pillow exact" is load_image's default, "Pillow scaled" is load_image with shrink_to
(config.data.decoder = "fast"), "Pillow bare" is Pillow without this package. simplejpeg and OpenCV
are optional. Ratios are to Pillow exact, and so are the distances of pixels, in levels of 255.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
from _timing import print_table, take_turns
from absl import flags
from PIL import Image, features

from owl_jax import cli
from owl_jax.media.image import load_image, preprocess_image

_SIZE = flags.DEFINE_integer("size", 224, "sides of the square", lower_bound=8)
_PICTURES = flags.DEFINE_integer("pictures", 8, "in each round", lower_bound=1)
_QUALITY = flags.DEFINE_integer("quality", 87, "of the JPEGs", lower_bound=1, upper_bound=95)
_ROUNDS = flags.DEFINE_integer("rounds", 9, "timings of each decoder", lower_bound=1)

_SIZES = ((640, 480), (1920, 1080))

Decoder = Callable[[bytes], np.ndarray]


def main(argv: list[str]) -> None:
    """Prints two tables for each image size."""
    del argv
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    turbo = features.version("libjpeg_turbo") or "none"
    print(f"{cores} CPU cores, Pillow {Image.__version__}, its libjpeg-turbo {turbo}")
    contestants = decoders(_SIZE.value)
    rng = np.random.default_rng(0)
    with ThreadPoolExecutor(cores) as pool:
        for width, height in _SIZES:
            files = [photograph(width, height, rng) for _ in range(_PICTURES.value)]
            kilobytes = sum(map(len, files)) / len(files) / 1000
            title = (
                f"{width} x {height}, {kilobytes:.0f} kB a file, to {_SIZE.value} x {_SIZE.value}"
            )
            for threads, in_turn in ((1, map), (cores, pool.map)):
                runs = {
                    name: partial(_prepared, decode, files, in_turn)
                    for name, decode in contestants.items()
                }
                heading = f"{title}, {threads} thread{'s' if threads > 1 else ''}"
                print_table(heading, "picture", take_turns(runs, _ROUNDS.value), len(files))
            _print_distances(contestants, files)


def decoders(size: int) -> dict[str, Decoder]:
    """The decoders by name, Pillow exact first. Prints which libraries are missing."""
    square, bicubic = (size, size), Image.Resampling.BICUBIC

    def scaled(data: bytes) -> np.ndarray:
        return preprocess_image(load_image(data, shrink_to=size), size)

    def bare(data: bytes) -> np.ndarray:
        return np.array(Image.open(BytesIO(data)).resize(square, bicubic))

    found: dict[str, Decoder] = {
        "Pillow exact": lambda data: preprocess_image(load_image(data), size),
        "Pillow bare": bare,
        "Pillow scaled": scaled,
    }
    if find_spec("simplejpeg"):
        import simplejpeg

        def turbo(data: bytes, least: int) -> np.ndarray:
            pixels = simplejpeg.decode_jpeg(data, min_height=least, min_width=least)
            return np.array(Image.fromarray(pixels).resize(square, bicubic))

        found["simplejpeg"] = partial(turbo, least=0)
        found["simplejpeg scaled"] = partial(turbo, least=size)
    else:
        print("simplejpeg is not installed")
    if find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)  # the pool uses the cores

        scales = {
            8: cv2.IMREAD_REDUCED_COLOR_8,
            4: cv2.IMREAD_REDUCED_COLOR_4,
            2: cv2.IMREAD_REDUCED_COLOR_2,
            1: cv2.IMREAD_COLOR,
        }

        def opencv(data: bytes, reduced: bool) -> np.ndarray:
            room = min(Image.open(BytesIO(data)).size) // size if reduced else 1
            scale = next(scale for scale in scales if scale <= max(room, 1))
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), scales[scale])
            # OpenCV's bicubic filter reads 4 x 4 pixels at any scale, INTER_AREA reads all.
            pixels = cv2.resize(pixels, square, interpolation=cv2.INTER_AREA)
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)

        found["OpenCV area"] = partial(opencv, reduced=False)
        found["OpenCV area scaled"] = partial(opencv, reduced=True)
    else:
        print("OpenCV is not installed")
    return found


def photograph(width: int, height: int, rng: np.random.Generator) -> bytes:
    """A JPEG like a photograph: large shapes, finer ones with less contrast, grain."""
    pixels = np.full((height, width, 3), 128.0)
    for cells in (4, 12, 40, 150):
        coarse = rng.integers(0, 256, (max(cells * height // width, 2), cells, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        pixels += (np.asarray(smooth, np.float64) - 128) * (4 / cells) ** 0.5
    pixels += rng.normal(0, 3, pixels.shape)
    file = BytesIO()
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    picture.save(file, "JPEG", quality=_QUALITY.value)
    return file.getvalue()


def _prepared(decode: Decoder, files: Sequence[bytes], in_turn: Any) -> Callable[[], Any]:
    return lambda: list(in_turn(decode, files))


def _print_distances(contestants: dict[str, Decoder], files: Sequence[bytes]) -> None:
    exact, *others = contestants
    squares = {
        name: np.stack([decode(data) for data in files]).astype(int)
        for name, decode in contestants.items()
    }
    print(f"\n{f'distance from {exact}':<36}{'mean':>8}{'largest':>9}")
    for name in others:
        distance = np.abs(squares[name] - squares[exact])
        print(f"{name:<36}{distance.mean():>8.2f}{distance.max():>9}")


if __name__ == "__main__":
    cli.run(main)
