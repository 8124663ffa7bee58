"""Environment variables of libtpu and JAX for compiling without a TPU.

This module runs before JAX is imported, so it does not import JAX. If the shell has settings for
training on a real TPU, they do not affect the compiled program.
"""

from __future__ import annotations

import os

_SETTINGS = {
    "JAX_PLATFORMS": "cpu",  # JAX's own backend: only the CPU
    # libtpu would query the cloud for its slice and the other hosts; there are none.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # any known type; the topology is given by name
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several compilations at once, without a lock file
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
_DROPPED = ("LIBTPU_INIT_ARGS", "XLA_FLAGS", "TPU_LIBRARY_PATH", "JAX_COMPILATION_CACHE_DIR")


def prepare() -> None:
    """Sets the environment of this process for compiling without a TPU."""
    for name in _DROPPED:
        os.environ.pop(name, None)
    os.environ.update(_SETTINGS)
