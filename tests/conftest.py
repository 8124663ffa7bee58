"""Every test sees eight CPU devices, and no hub but its own.

The variables must be set before the libraries that read them are imported.
"""

import gc
import os
import signal
import tempfile
from pathlib import Path

import pytest
from forked import PROGRAMS
from quick_compile import on_devices

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = on_devices(8)
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nothing listens there


def pytest_configure(config):
    """Makes the folder of the compiled programs that the workers and their processes share."""
    if PROGRAMS not in os.environ:  # a worker inherits it
        folder = tempfile.TemporaryDirectory(prefix="owl_jax-programs-")
        config.add_cleanup(folder.cleanup)
        os.environ[PROGRAMS] = folder.name


# Pairs of processes need both cores: the launchers, which mostly wait, run beside them. The longest
# files are in the next folders, in this order.
PAIRS = "test_faults.py"
LONG = ("launch", "training", "tests", "models", "checkpoint", "inference", "data")


def pytest_collection_modifyitems(items):
    """The longest files first: at the end of a run no worker is left alone."""

    def place(item):
        if item.path.name == PAIRS:
            return -1
        inside = item.path.relative_to(Path(__file__).parents[1]).parts[:-1]
        room = inside[:2][-1]
        return LONG.index(room) if room in LONG else len(LONG)

    items.sort(key=place)


def pytest_collection_finish():
    """Collects garbage less often: a trace of a program makes many objects, few of them garbage."""
    gc.collect()
    gc.freeze()  # what is imported stays
    gc.set_threshold(50_000, 20, 50)


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
