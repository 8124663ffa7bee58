"""What libtpu and JAX read from the environment, set the same for everybody who compiles.

Called before JAX is imported, and so imports nothing of it. A program compiled here does not depend
on what the shell has set for training on a real TPU.
"""

from __future__ import annotations

import os

_SETTINGS = {
    "JAX_PLATFORMS": "cpu",  # JAX's own backend: none but the CPU is looked for
    # libtpu asks the cloud which slice it is on, and for the other hosts; there is none.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # any that it knows; the topology is given by name
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several compilations at once: no lock file
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
_DROPPED = ("LIBTPU_INIT_ARGS", "XLA_FLAGS", "TPU_LIBRARY_PATH", "JAX_COMPILATION_CACHE_DIR")


def prepare() -> None:
    """Sets the environment of this process for compiling without a TPU."""
    for name in _DROPPED:
        os.environ.pop(name, None)
    os.environ.update(_SETTINGS)
