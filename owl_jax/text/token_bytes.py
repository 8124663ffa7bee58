"""The bytes that single tokens stand for: for grammars and log-probabilities.

A token may be a part of a character, so its bytes need not be UTF-8.
"""

from __future__ import annotations

import re
from functools import cache

SPACE = "\u2581"  # how SentencePiece, and Metaspace in tokenizer.json, write a space

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def bytes_of_piece(piece: str) -> bytes:
    """Of a piece of SentencePiece or of a tokenizer.json with byte fallback: `▁owl`, `<0x0A>`."""
    if found := _BYTE.fullmatch(piece):
        return bytes([int(found[1], 16)])
    return piece.replace(SPACE, " ").encode("utf-8", errors="replace")


def bytes_of_byte_level(piece: str) -> bytes:
    """Of a piece of a byte-level BPE, which writes each byte as a printable character: `Ġowl`."""
    table = _byte_of_character()
    try:
        return bytes(table[character] for character in piece)
    except KeyError:  # an added token, written as it is
        return piece.encode("utf-8", errors="replace")


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 stands for itself, the other bytes for U+0100 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}
