"""Names commands in messages as the running one was called, with `python -m` or as a script."""

from __future__ import annotations

import re
import sys

# Commands only: owl_jax.parallel.xla_flags, for example, is none.
_MODULE = re.compile(r"python -m owl_jax\.(?:data\.)?(\w+)(?![\w.]*\w)")


def as_called(text: str) -> str:
    """`text` with owl-NAME for "python -m owl_jax.NAME" if a console script runs (scripts.py)."""
    is_script = hasattr(sys.modules["__main__"], "__script__")
    return _MODULE.sub(r"owl-\1", text) if is_script else text
