"""TPU slices to compile for. libtpu reads its settings once, when the first of them is opened."""

import os

import pytest

from owl_jax.aot import environment


@pytest.fixture(scope="session")
def open_topology():
    """`owl_jax.aot.topology.open_topology`, in the environment of the command."""
    from owl_jax.aot.topology import open_topology

    before = dict(os.environ)
    environment.prepare()
    try:
        open_topology("v5e:2x2")
    finally:
        os.environ.clear()
        os.environ.update(before)
    return open_topology
