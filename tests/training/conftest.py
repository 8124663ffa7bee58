"""Puts this folder on the path: its subfolders import training_runs and small_step from it."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(scope="session")
def _programs(tmp_path_factory):
    return str(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module", autouse=True)
def _programs_are_compiled_once(_programs):
    """Trainings in this process have one step in common, which each of them would compile anew."""
    options = {
        "jax_compilation_cache_dir": _programs,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    former = {name: jax.config.values[name] for name in options}
    _set(options)
    yield
    _set(former)


def _set(options):
    compilation_cache.reset_cache()
    for name, value in options.items():
        jax.config.update(name, value)
