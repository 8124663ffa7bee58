"""Time and memory until the first records of a large file are read.

    python benchmarks/start_up.py [--lines=250000 --lines=1000000] [--source=lines,array,rows]

Each measurement runs in a new process. After the imports, it times opening the source and reading
256 random records: first without an index, then with the index that the first run left. The file
has conversations as long as LLaVA-Instruct-150K's (1.4 KB), and is dropped from the page cache
before each measurement. Memory is the peak above the level after the imports. Linux only.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from owl_jax import cli
from owl_jax.data.sources.csv_rows import CsvSource
from owl_jax.data.sources.json_array import JsonArraySource
from owl_jax.data.sources.json_lines import JsonLinesSource
from owl_jax.data.sources.record import Source

_LINES = flags.DEFINE_multi_integer(
    "lines", [250_000, 500_000, 1_000_000], "records of a file; may be given several times"
)
_SOURCES = flags.DEFINE_multi_enum(
    "source", ["lines"], ["lines", "array", "rows"], "JSON Lines, a JSON array, CSV"
)

_OPENED: dict[str, Callable[..., Source]] = {
    "lines": JsonLinesSource,
    "array": JsonArraySource,
    "rows": CsvSource,
}
_NAMES = {"lines": "data.jsonl", "array": "data.json", "rows": "data.csv"}
_BATCH = 256


class Cost(NamedTuple):
    seconds: float
    memory: int  # bytes


def main(argv: list[str]) -> None:
    """Prints a line for each source and number of records."""
    del argv
    print("             records      MB |    first  us/record  memory |   second  memory")
    for source in _SOURCES.value:
        for count in _LINES.value:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / _NAMES[source]
                _write(source, path, count)
                first, second = (_in_new_process(source, path) for _ in range(2))
                print(
                    f"{source:<10}{count:>10,}{path.stat().st_size / 1e6:>8.0f} |"
                    f"{first.seconds:>7.2f} s{1e6 * first.seconds / count:>11.2f}"
                    f"{first.memory / 1e6:>5.0f} MB |"
                    f"{second.seconds:>7.2f} s{second.memory / 1e6:>5.0f} MB"
                )


def _in_new_process(source: str, path: Path) -> Cost:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measure, source, path).result()


def _measure(source: str, path: Path) -> Cost:
    before = _resident("VmRSS")
    start = time.perf_counter()
    opened = _OPENED[source](path, path.parent, path.parent / "index")
    for number in np.random.default_rng(0).integers(len(opened), size=_BATCH):
        record = opened[int(number)]
        assert record["text"]
    seconds = time.perf_counter() - start
    return Cost(seconds, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    """Bytes of this process's resident memory: VmRSS now, VmHWM at the peak."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def _write(source: str, path: Path, count: int) -> None:
    """Writes `count` records that repeat a thousand texts, each with its own image."""
    random = np.random.default_rng(0)
    record = _row if source == "rows" else _conversation
    patterns = [record(random).encode() for _ in range(1000)]
    head, between, tail = {
        "lines": (b"", b"\n", b"\n"),
        "array": (b"[", b", ", b"]"),
        "rows": (b"image,caption\n", b"\n", b"\n"),
    }[source]
    with path.open("wb") as file:
        file.write(head)
        for number in range(count):
            file.write(between if number else b"")
            file.write(patterns[number % len(patterns)].replace(b"NUMBER", b"%012d" % number))
        file.write(tail)
        file.flush()
        os.fsync(file.fileno())  # dirty pages cannot be dropped from the cache


def _conversation(random: np.random.Generator) -> str:
    turns = []
    for turn in range(3):
        mark = "" if turn else "<image>\n"
        turns.append({"from": "human", "value": f"{mark}{_words(random, 12)}?"})
        turns.append({"from": "gpt", "value": f"{_words(random, 48)}."})
    return json.dumps({"id": "NUMBER", "image": "train/NUMBER.jpg", "conversations": turns})


def _row(random: np.random.Generator) -> str:
    return f'train/NUMBER.jpg,"{_words(random, 10)}, ""{_words(random, 2)}"""'


def _words(random: np.random.Generator, count: int) -> str:
    lengths = random.integers(2, 10, size=count)
    return " ".join("".join(map(chr, random.integers(97, 123, size=length))) for length in lengths)


if __name__ == "__main__":
    cli.run(main)
