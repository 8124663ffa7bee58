import pytest
import tiny
from served import Served

import owl_jax


@pytest.fixture(scope="session")
def owl(tmp_path_factory):
    return owl_jax.load(tiny.write_model(tmp_path_factory.mktemp("served") / "model"), "float32")


@pytest.fixture
def serve(owl):
    """Starts servers with an engine that answers from a script; they end with the test."""
    running = []

    def start(answer="An owl.", **arguments):
        running.append(Served(owl, answer, **arguments).__enter__())
        return running[-1]

    yield start
    for served in running:
        served.__exit__()


@pytest.fixture(scope="module")
def plain(owl):
    """A server that answers "An owl." and that tests may share."""
    with Served(owl) as served:
        yield served
