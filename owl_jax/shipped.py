"""The configs that ship with owl_jax, and their names: stage2, demo/stage1.

In a checkout they are in configs/ beside the package, in a wheel in the package (setup.py).
"""

from __future__ import annotations

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).parent
_PLACES = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
CONFIGS = next((place for place in _PLACES if place.is_dir()), _PLACES[0])


def config_names() -> list[str]:
    """The names of all configs, not of other files beside them."""
    files = (path for path in CONFIGS.rglob("*.py") if "def get_config(" in path.read_text("utf-8"))
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in files)


def config_file(name: str) -> str | None:
    """The file of a config by its name; None if there is no such name."""
    return str(CONFIGS / f"{name}.py") if name in config_names() else None


def nearest_name(path: str) -> str | None:
    """The config that somebody may have meant who typed `path`, if any."""
    typed = path.removeprefix("./").removeprefix("configs/").removesuffix(".py")
    return next(iter(difflib.get_close_matches(typed, config_names(), 1)), None)
