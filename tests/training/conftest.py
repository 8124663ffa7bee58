"""Puts this folder on the path: its subfolders import training_runs and small_step from it."""

import os

import jax
import pytest
from forked import PROGRAMS
from jax.experimental.compilation_cache import compilation_cache

from owl_jax.training import config as settings
from owl_jax.training import loop, train_program

# The keys that make_program reads itself.
TOLD = (
    "frozen_dtype",
    "clip_norm",
    "seed",
    "gradient_accumulation_steps",
    "batch_size",
)


@pytest.fixture(scope="module", autouse=True)
def _programs_are_compiled_once():
    """The runs have one step in common, which each of them would compile anew."""
    options = {
        "jax_compilation_cache_dir": os.environ[PROGRAMS],
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    former = {name: jax.config.values[name] for name in options}
    _set(options)
    yield
    _set(former)


@pytest.fixture(scope="session")
def _made():
    return {}


@pytest.fixture(scope="module", autouse=True)
def _programs_are_traced_once(_made):
    """Runs share a program that is the same: JAX keeps what it has traced of it."""

    def make(config, mesh):
        model = settings.read_model(config)
        rules, recipes = settings.read_recipes(config)
        # A constant rate is that of runs of any length.
        is_constant = all(recipe.schedule == "constant" for recipe in recipes.values())
        facts = [
            settings.read_compute(config),
            (rules, recipes),
            None if is_constant else config.steps,
            settings.sequence_shape(config, model),
            *(config[name] for name in TOLD),
        ]
        objective = config.objective
        key = model, mesh, id(objective), train_program.make_step, repr(facts)
        if key not in _made:  # the objective is kept, so that no other has its id
            _made[key] = objective, train_program.make_program(config, mesh)
        return _made[key][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_program", make)
        yield


def _set(options):
    compilation_cache.reset_cache()
    for name, value in options.items():
        jax.config.update(name, value)
