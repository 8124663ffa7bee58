"""Python as a process that is forked off one that has imported everything (fork_server.py).

For commands and scripts whose start is not what is tested, and in an environment that differs from
this process's only in what is read after the imports.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = Path(__file__).parent

# The variable that names the folder of compiled programs (conftest.py).
PROGRAMS = "OWL_JAX_TEST_PROGRAMS"


class Forked:
    """What subprocess.Popen of `python ARGUMENTS` is, with pipes for stdout and stderr."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        start_new_session: bool = False,
        directory: Path | None = None,
    ):
        out, err, self._status = (os.pipe() for _ in range(3))
        order = {
            "arguments": list(arguments),
            "directory": str(directory or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
            "start_new_session": start_new_session,
        }
        control = _server().control
        theirs = [write for _, write in (out, err, self._status)]
        socket.send_fds(control, [json.dumps(order).encode()], theirs)
        answer = control.recv(100)
        for descriptor in theirs:
            os.close(descriptor)
        assert answer, "the fork server has ended"
        self.pid = int(answer)
        self.returncode: int | None = None
        self.stdout = os.fdopen(out[0], encoding="utf-8")
        self.stderr = os.fdopen(err[0], encoding="utf-8")

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended."""
        status = self._wait(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("python", timeout or 0)
        return status

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status[0]], [], [], timeout)[0]:
            self.returncode = int(os.read(self._status[0], 100))
            os.close(self._status[0])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal to the process itself, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it if it runs."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that is left of stdout and of stderr, once it has ended."""
        texts: dict[str, str] = {}

        def read(name: str) -> None:
            with getattr(self, name) as file:
                texts[name] = file.read()

        readers = [
            threading.Thread(target=read, args=[name], daemon=True) for name in ("stdout", "stderr")
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout)
        if len(texts) < 2:
            raise subprocess.TimeoutExpired("python", timeout or 0)
        self.wait(timeout)
        return texts["stdout"], texts["stderr"]


def run(
    *arguments: str | bytes,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` to its end."""
    every = [os.fsdecode(argument) for argument in arguments]
    process = Forked(every, environment, directory=directory)
    try:
        stdout, stderr = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode is not None
    return subprocess.CompletedProcess(every, process.returncode, stdout, stderr)


class _Server:
    """Ends when the process that holds it ends."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        text = Path(__file__).with_name("fork_server.py").read_text()
        self.process = subprocess.Popen(
            [sys.executable, "-c", text, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
                # What one process has compiled is kept for the others.
                "JAX_COMPILATION_CACHE_DIR": os.environ[PROGRAMS],
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            },
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()


_server = cache(_Server)
