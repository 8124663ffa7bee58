"""Reads one JSON array of examples, as in LLaVA, element by element.

The file may be far larger than memory: a scan indexes the elements without parsing them. Each
element has one of the forms of sources/values.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import SEEK_CUR
from pathlib import Path
from typing import BinaryIO

import numpy as np

from owl_jax.data.sources.index import IndexedFile, skip_bom
from owl_jax.data.sources.json_lines import JsonLinesSource
from owl_jax.errors import UserError

_CHUNK = 1 << 20  # bytes; the arrays made of them fit the CPU cache
_HEAD = 1 << 16  # bytes searched for the first keys of an object
_QUOTE, _COMMA, _OPEN, _CLOSE = 1, 2, 3, 4
_KINDS = dict(zip(b'",[{]}', (_QUOTE, _COMMA, _OPEN, _OPEN, _CLOSE, _CLOSE), strict=True))
_KIND_OF_BYTE = bytes(_KINDS.get(byte, 0) for byte in range(256))


class JsonArraySource(JsonLinesSource):
    """The records of a file that holds one JSON array of objects.

    Args:
      path: of the file, in UTF-8.
      media_root: base of relative media paths.
      index_dir: where the index of the elements is stored for later runs; None keeps it in memory.

    If the file is cut short, or so broken that later elements cannot be found, one bad record takes
    the place of the rest.

    Raises UserError for a file that is missing, empty, not an array or changed while it is in use,
    and BadData on access for an element that is not an example.
    """

    @staticmethod
    def _indexed(path: Path, index_dir: Path | None) -> IndexedFile:
        return IndexedFile(path, scan_array, "array", "a JSON array of objects", index_dir)


def scan_array(file: BinaryIO, chunk_size: int = _CHUNK) -> Iterator[np.ndarray]:
    """The elements of an array: int64[n, 3] as in sources/index.py.

    An element is everything between two commas, blanks included; it may be invalid JSON. Raises
    UserError if the file does not begin with "[".
    """
    line = _find_first(file)
    if not line:
        return
    position = start = file.tell()
    # Line of the first mark of the element that begins at `start`; 0 if none was found yet.
    begun = 0
    depth, inside, rest = 1, False, b""
    while block := file.read(chunk_size):
        # Blanks escapes, so that every remaining quote opens or closes a string. `rest` carries a
        # backslash at the end of the block over to the next block.
        block = (rest + block).replace(rb"\\", b"  ").replace(rb"\"", b"  ")
        rest = b"\\" if block.endswith(b"\\") else b""
        block = block.removesuffix(rest)

        marks, kinds, inside = _marks(block, inside)
        depths = depth + np.cumsum((kinds == _OPEN).astype(np.int64) - (kinds == _CLOSE))
        closed = np.flatnonzero(depths == 0)[:1]
        if len(closed):
            marks, kinds, depths = (array[: closed[0] + 1] for array in (marks, kinds, depths))
        separators = np.flatnonzero((depths == 0) | ((depths == 1) & (kinds == _COMMA)))

        # The first mark of each element that ends in this block and of the last element, which
        # continues; then the lines of these marks.
        firsts = np.append(marks, -1)[np.append(0, separators + 1)]
        breaks = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
        lines = np.where(firsts < 0, 0, line + np.searchsorted(breaks, firsts))
        lines[0] = begun or lines[0]
        ends = marks[separators] + position
        starts = np.append(start, ends + 1)
        yield np.stack([starts[:-1], ends, lines[:-1]], axis=1)

        if len(closed):
            file.seek(ends[-1] + 1)
            line = _skip_blanks(file, line + int(np.searchsorted(breaks, marks[-1])))
            if file.read(1):  # data after the array is a broken record
                yield np.array([[file.tell() - 1, -1, line]])
            return
        start, begun = int(starts[-1]), int(lines[-1])
        depth = int(depths[-1]) if len(depths) else depth
        line, position = line + len(breaks), position + len(block)
    if begun and depth == 1 and not inside:  # the last element is complete, the rest is missing
        yield np.array([[start, position, begun]])
        start, begun = position, line
    yield np.array([[start, -1, begun or line]])


def _marks(block: bytes, inside: bool) -> tuple[np.ndarray, np.ndarray, bool]:
    """Finds quotes that open a string, and commas and brackets outside of strings.

    Args:
      block: a part of the file, without escapes.
      inside: whether it begins inside a string.

    Returns: their offsets int64[n], their kinds uint8[n], whether the block ends inside a string.
    """
    kind_of_byte = np.frombuffer(block.translate(_KIND_OF_BYTE), np.uint8)
    offsets = np.flatnonzero(kind_of_byte != 0)
    kinds = kind_of_byte[offsets]
    is_quote = kinds == _QUOTE
    inside_after = np.logical_xor.accumulate(is_quote) ^ inside
    outside_before = inside_after == is_quote
    ends_inside = bool(inside_after[-1]) if len(offsets) else inside
    return offsets[outside_before], kinds[outside_before], ends_inside


def _find_first(file: BinaryIO) -> int:
    """Seeks to the array's first element; returns its line, or 0 for an empty file or array."""
    skip_bom(file)
    line = _skip_blanks(file, 1)
    bracket = file.read(1)
    if bracket not in (b"[", b""):
        if bracket == b"{" and (what := _known_object(file.read(_HEAD))):
            raise UserError(f"{file.name}: {what}")
        raise UserError(
            f"{file.name}: begins with {bracket.decode('latin-1')!a}; expected one JSON array of "
            "objects (one object per line would be JSON Lines)"
        )
    line = _skip_blanks(file, line)
    first = file.read(1)
    file.seek(-len(first), SEEK_CUR)
    return 0 if first == b"]" or not bracket else line


def _known_object(head: bytes) -> str | None:
    """Recognises a common file of one object by its first keys; says how to convert it."""
    keys = set(re.findall(rb'"(\w+)"\s*:\s*[\[{]', head))
    if b"annotations" in keys or {b"images", b"info"} <= keys:
        return (
            "one object with images and annotations, as in COCO and VQAv2; write one line "
            '{"image": FILE, "caption": TEXT}, or {"image": FILE, "question": TEXT, "answer": '
            "TEXT}, for each annotation"
        )
    if b"questions" in keys:
        return (
            "one object with questions, as in VQAv2, whose answers are in another file; write one "
            'line {"image": FILE, "question": TEXT, "answer": TEXT} for each question'
        )
    return None


def _skip_blanks(file: BinaryIO, line: int) -> int:
    """Seeks to the next byte that is not blank, starting on `line`; returns that byte's line."""
    while block := file.read(4096):
        rest = block.lstrip(b" \t\r\n")
        line += block.count(b"\n", 0, len(block) - len(rest))
        if rest:
            file.seek(-len(rest), SEEK_CUR)
            break
    return line
