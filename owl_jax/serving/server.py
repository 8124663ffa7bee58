"""Runs the application on a socket until a signal comes, while the model loads beside it."""

from __future__ import annotations

import math
import os
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from owl_jax import cli
from owl_jax.malloc import return_large_buffers
from owl_jax.serving.model import Model
from owl_jax.serving.service import Service

_KEEP_ALIVE = 75  # seconds; longer than clients keep idle connections


class _Server(uvicorn.Server):
    """Tells the service when a signal asks for the end: /health is 503 from then on."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for SIGINT and SIGTERM; a second SIGINT ends running answers."""
        self._service.is_draining = True
        super().handle_exit(sig, frame)


def run(app: ASGIApp, service: Service, listener: socket.socket, load: Callable[[], Model]) -> None:
    """Serves until SIGTERM, which lets running answers finish, or Ctrl-C.

    Raises what `load` raises, and KeyboardInterrupt after Ctrl-C. Ends the process, with the status
    0 of SIGTERM or 130 of Ctrl-C, if the model is still loading then.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(service.settings.drain_seconds),
    )
    server = _Server(config, service)
    return_large_buffers()
    # Each connection takes a descriptor, and the soft limit of many systems is 1,024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems take no unlimited number
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host

    def end() -> None:
        server.should_exit = True

    # A signal before the event loop runs leaves uvicorn's coroutine unstarted, which is no fault.
    warnings.filterwarnings("ignore", "coroutine 'Server.serve' was never awaited", RuntimeWarning)
    former = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    interrupt: BaseException | None = None
    try:
        cli.say(f"listening on http://{name}:{port}; the model is loading")
        start = time.monotonic()

        def ready() -> None:
            cli.say(f"{service.name} is ready after {time.monotonic() - start:.0f} s")

        service.load(load, when_ready=ready, when_failed=end)
        server.run(sockets=[listener])
    except (SystemExit, KeyboardInterrupt) as signalled:  # uvicorn raises its signals again
        interrupt = signalled
    finally:
        signal.signal(signal.SIGTERM, former)
    if service.failure is not None:
        raise service.failure
    was_interrupted = isinstance(interrupt, KeyboardInterrupt)
    if not service.is_loaded:
        if was_interrupted:
            print("error: interrupted", file=sys.stderr)
        # The thread that loads may be compiling, and an interpreter that exits then may crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130 if was_interrupted else 0)
    if was_interrupted:
        raise KeyboardInterrupt
