"""Writes safetensors files tensor by tensor.

The safetensors library needs all tensors of a file in memory, where a shard may not fit. Format:
eight bytes with the header's length, a JSON header, then the tensors
(github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from owl_jax.checkpoint.lazy_arrays import ahead
from owl_jax.checkpoint.tensors import Outgoing

# As in the released models.
SHARD_BYTES = 10 * 10**9

_NAMES: Mapping[str, str] = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "int32": "I32",
    "int64": "I64",
}


def write_shards(
    tensors: Sequence[Outgoing],
    directory: Path,
    stem: str = "model",
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> dict[str, str]:
    """Writes the tensors in order to files of up to `shard_bytes`, and an index for several files.

    progress: called with the bytes of each tensor after it is written.

    Returns: {name of a tensor file: its SHA-256}.
    """
    shards = list(_cut(tensors, shard_bytes))
    if len(shards) == 1:
        name = f"{stem}.safetensors"
        return {name: write_file(tensors, directory / name, progress)}
    weight_map: dict[str, str] = {}
    hashes = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        hashes[name] = write_file(shard, directory / name, progress)
        weight_map |= {tensor.name: name for tensor in shard}
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    text = json.dumps(index, indent=2) + "\n"
    (directory / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")
    return hashes


def write_file(
    tensors: Sequence[Outgoing],
    path: Path,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> str:
    """Writes one safetensors file with a few tensors in memory at a time. Returns its SHA-256."""
    # Wide dtypes first, so each tensor is aligned to its item size.
    ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(head)
    with path.open("wb") as file, ThreadPoolExecutor(1) as pool:
        file.write(head)
        for tensor, value in zip(ordered, ahead(t.read for t in ordered), strict=True):
            data = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
            # Hashing and writing overlap; neither holds the GIL.
            hashed = pool.submit(digest.update, data)
            file.write(data)
            hashed.result()
            progress(tensor.nbytes)
    return digest.hexdigest()


def _cut(tensors: Sequence[Outgoing], shard_bytes: int) -> Iterator[list[Outgoing]]:
    shard: list[Outgoing] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.nbytes
    yield shard
