"""TensorBoard event files, written by tensorboardX without PyTorch.

tensorboardX imports PyTorch if it is installed. That would double the import time of a run,
and no PyTorch tensors are logged here.
"""

import sys


def _without_torch() -> None:
    """Imports tensorboardX as if PyTorch were not installed."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]  # `import torch` then fails
    try:
        import tensorboardX  # noqa: F401
    finally:
        if hidden:
            del sys.modules["torch"]


_without_torch()

from tensorboardX.event_file_writer import EventsWriter  # noqa: E402
from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: E402
from tensorboardX.summary import scalar  # noqa: E402

__all__ = ["Event", "EventsWriter", "SessionLog", "scalar"]
