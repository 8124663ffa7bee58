"""Data loading: images per second against a bare loop, and how long training steps wait.

    python benchmarks/data_loading.py [--pictures=600] [--steps=30] [--demo]

Rate: the whole pipeline (JSON Lines, tokens, packing, decoding, batches of 32 images) takes turns
with a bare loop that decodes and resizes the same files with the same function, one thread per
core. Waiting: steps of one second, which leave the cores idle as an accelerator does, take batches
of 32 images of 640 x 480; --demo also measures stage 2 of the demonstration, whose steps use the
same cores. The files are generated first and come from the page cache.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
from absl import flags
from PIL import Image

from owl_jax import cli
from owl_jax.data.batch import SequenceShape
from owl_jax.data.decoding import Decoding
from owl_jax.data.drops import DropLog
from owl_jax.data.mixture import WeightedSource
from owl_jax.data.pipeline import BatchIterator, Reading, make_batches
from owl_jax.data.sources.detect import open_source
from owl_jax.demo.stages import train_stage
from owl_jax.media.image import load_image, preprocess_image
from owl_jax.text.media_index import MediaLengths
from owl_jax.text.tokenizer import load_tokenizer

_PICTURES = flags.DEFINE_integer("pictures", 600, "files to make", lower_bound=32)
_STEPS = flags.DEFINE_integer("steps", 30, "simulated steps", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "timings of each form", lower_bound=1)
_DEMO = flags.DEFINE_bool("demo", False, "train 200 steps of the demonstration's stage 2, too")

CORES = len(os.sched_getaffinity(0))
TOKENIZER = Path(__file__).parents[1] / "configs/demo/tokenizer"
SHAPE = SequenceShape(length=1024, media=MediaLengths(65, 65), image_size=224, image_slots=4)
ROWS = 8  # of four pictures


def make_files(directory: Path, count: int) -> Path:
    """Writes JPEG files as costly to decode as photographs, and the JSON Lines that list them."""
    random = np.random.default_rng(0)
    lines = []
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), np.uint8))
        smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
        grain = random.integers(-12, 13, (480, 640, 1))
        picture = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        picture.save(directory / f"{number}.jpg", quality=87)
        words = " ".join(random.choice(["red", "blue", "circle", "square"], 60))
        lines.append(json.dumps({"text": f"Human: <image>\nAI: {words}", "image": f"{number}.jpg"}))
    (directory / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return directory / "data.jsonl"


def open_batches(file: Path, threads: int) -> BatchIterator:
    return make_batches(
        [WeightedSource(open_source(str(file)), 1.0)],
        load_tokenizer(TOKENIZER),
        SHAPE,
        Decoding(SHAPE.image_size),
        ROWS,
        0,
        DropLog(0.0),
        open_rows=16,
        reading=Reading(threads=threads),
    )


def pictures_a_second(file: Path) -> None:
    """Prints the rates of the pipeline and the bare loop."""
    files = sorted(file.parent.glob("*.jpg"))
    ratios, rates = [], {"bare loop": [], "pipeline": []}
    with ThreadPoolExecutor(CORES) as pool, closing(open_batches(file, CORES)) as batches:
        next(batches)
        for _ in range(_ROUNDS.value):
            start = time.perf_counter()
            for _ in pool.map(lambda path: preprocess_image(load_image(path), 224), files):
                pass
            bare = len(files) / (time.perf_counter() - start)
            # Discards batches that were decoded ahead, for a fair start.
            batches.set_state(batches.get_state())
            start, seen = time.perf_counter(), 0
            while seen < len(files):
                seen += np.count_nonzero(next(batches).media_index >= 0) // SHAPE.media.image
            piped = seen / (time.perf_counter() - start)
            rates["bare loop"].append(bare)
            rates["pipeline"].append(piped)
            ratios.append(piped / bare)
    print(f"\n640 x 480 JPEG to 224 x 224, {CORES} threads, {len(files)} files")
    for name, values in rates.items():
        print(f"{name:<12}{median(values):>8.0f} pictures/s")
    print(f"ratio       {median(ratios):>8.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


def wait_of_a_simulated_step(file: Path) -> None:
    """Prints the share of time that steps of one second wait for data."""
    with closing(open_batches(file, CORES)) as batches:
        next(batches)  # in training the first batch overlaps with compilation
        waits = []
        for _ in range(_STEPS.value):
            time.sleep(1.0)
            start = time.perf_counter()
            next(batches)
            waits.append(time.perf_counter() - start)
    share = sum(waits) / (sum(waits) + len(waits))
    print(f"\nSteps of 1 s, 32 pictures each: data wait {share:.2%}, longest {max(waits):.3f} s")


def wait_of_the_demonstration(directory: Path) -> None:
    """Prints the data wait of the demonstration's stage 2, from random weights."""
    config = Path(__file__).parents[1] / "configs/demo/stage2.py"
    train_stage(config, directory / "demo", {}, scale=200 / 1000)
    lines = (directory / "demo/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    waits = [json.loads(line)["data_wait"] for line in lines[2:]]
    print(f"\nDemonstration, stage 2: data wait {np.mean(waits):.2%}, longest {max(waits):.2%}")


def main(argv: list[str]) -> None:
    """Prints two or three results."""
    del argv
    with tempfile.TemporaryDirectory() as directory:
        file = make_files(Path(directory), _PICTURES.value)
        pictures_a_second(file)
        wait_of_a_simulated_step(file)
        if _DEMO.value:
            wait_of_the_demonstration(Path(directory))


if __name__ == "__main__":
    cli.run(main)
