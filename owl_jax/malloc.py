"""Settings of glibc's malloc for this process; other systems' are left alone."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4


def return_large_buffers(least_bytes: int = 4 << 20) -> bool:
    """Lets malloc map each buffer of `least_bytes` or more on its own, and unmap it when freed.

    For a server: its memory stays small. By default glibc takes buffers of up to 32 MiB from heaps
    once one of that size has been freed. Bodies and decoded pictures, which threads free in any
    order, then leave holes in the heaps.

    Returns: whether this system's malloc is glibc's; otherwise nothing is changed.
    """
    # Either ends glibc's own adjustment of both.
    return _set({_MMAP_THRESHOLD: least_bytes, _TRIM_THRESHOLD: 4 * least_bytes})


def keep_large_buffers() -> bool:
    """Lets malloc keep large buffers that are freed, for the next of their size.

    For training on a CPU: each step frees what the next one needs, and pages that are new from the
    system take time (docs/benchmarks.md). Returns: as `return_large_buffers`.
    """
    return _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 256 << 20})


def _set(values: dict[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return all(mallopt(name, value) == 1 for name, value in values.items())
