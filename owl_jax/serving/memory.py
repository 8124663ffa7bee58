"""Keeps a server's memory from growing: large buffers go back to the system when they are freed."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def return_large_buffers(least_bytes: int = 4 << 20) -> bool:
    """Lets malloc map each buffer of `least_bytes` or more on its own, and unmap it when freed.

    By default glibc takes buffers of up to 32 MiB from heaps once one of that size has been freed.
    Bodies and decoded pictures, which threads free in any order, then leave holes in the heaps.

    Returns: whether this system's malloc is glibc's; otherwise nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    # Either ends glibc's own adjustment of both.
    values = {_MMAP_THRESHOLD: least_bytes, _TRIM_THRESHOLD: 4 * least_bytes}
    return all(mallopt(name, value) == 1 for name, value in values.items())
