"""Every test sees eight CPU devices; the variables must be set before jax is imported."""

import os
import signal

import pytest
from quick_compile import on_devices

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = on_devices(8)


def pytest_collection_modifyitems(items):
    """The longest files first, those of trainings: at the end of a run no worker is left alone."""
    items.sort(key=lambda item: "training" not in item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def _children_take_interrupts():
    """Lets the tests' processes be interrupted where this one cannot be.

    A shell starts `make test &` and nohup with SIGINT ignored, and an ignored signal stays ignored
    in every child.
    """
    former = signal.getsignal(signal.SIGINT)
    if former is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)
