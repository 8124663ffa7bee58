"""Makes stdin, stdout and stderr robust against encodings, closed streams, pipes and full disks.

- Characters that the encoding lacks are escaped; undecodable bytes of stdin are replaced.
- A closed stream (`>&-`) becomes the null device.
- A pipe whose reader has gone (`| head -1`) ends the command with status 141, which shells report
  for SIGPIPE. A process that saves at SIGTERM saves first.
- Output to a terminal that has gone is dropped.
- A full disk under stdout raises OSError once; later output is dropped.
- Output that stderr cannot write is dropped: no work depends on it.
- Control characters on stderr are escaped, since libraries log file names there.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from owl_jax.errors import printable

# 128 + SIGPIPE: the status that a shell reports for a process ended by SIGPIPE.
BROKEN_PIPE = 141

_ASCII = ("ascii", "us-ascii", "ansi_x3.4-1968")


class Output(io.FileIO):
    """An output descriptor; after its first error all output is dropped.

    Args:
      when_lost: called once with the error; the writer sees an error only if this raises.
    """

    def __init__(self, descriptor: int, when_lost: Callable[[OSError], None]):
        super().__init__(descriptor, "w", closefd=False)
        self._when_lost = when_lost
        self._is_lost = False
        self.failure: OSError | None = None

    @property
    def is_broken(self) -> bool:
        """Whether the reader of the pipe has gone."""
        return self.failure is not None and self.failure.errno == errno.EPIPE

    def write(self, data: Any, /) -> int:
        """Writes `data`, or drops it if output is lost; returns the number of bytes handled."""
        size = memoryview(data).nbytes
        if self._is_lost:
            return size
        try:
            return super().write(data)
        except OSError as error:
            self._is_lost = True
            if error.errno in (errno.EIO, errno.EBADF):
                return size  # the terminal has gone
            self.failure = OSError(error.errno, error.strerror, "standard output")
            self._when_lost(self.failure)
        return size


class _Escaping(io.TextIOWrapper):
    def write(self, text: str, /) -> int:
        super().write(printable(text, keep="\n\t\r"))
        return len(text)


def run(command: Callable[[], object]) -> NoReturn:
    """Calls `command` with robust streams, and exits with its status or that of lost output."""
    stdout = _take_over()
    status: Any = 0
    try:
        command()
    except SystemExit as end:
        status = end.code
    except OSError as error:
        if not _is_from(stdout, error):
            raise
    try:
        sys.stdout.flush()
    except OSError as error:
        if not _is_from(stdout, error):
            raise
    if stdout.failure is not None and not stdout.is_broken and not status:
        print(f"error: {stdout.failure.filename}: {stdout.failure.strerror}", file=sys.stderr)
        status = 1
    # 75 asks for a restart; it becomes 141, since nobody reads the output any more.
    sys.exit(BROKEN_PIPE if stdout.is_broken and status in (0, None, 75) else status)


def _is_from(stdout: Output, error: OSError) -> bool:
    return stdout.failure is not None and stdout.failure.errno == error.errno


def _take_over() -> Output:
    """Replaces the three streams of the process; returns the raw stream of sys.stdout."""
    closed = [number for number in range(3) if not _is_open(number)]
    for number in closed:
        # Otherwise the next opened file gets this descriptor, and libraries write into that file.
        null = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
        if null != number:
            os.dup2(null, number)
            os.close(null)
    if sys.stdin is None or 0 in closed:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - never closed
    elif isinstance(sys.stdin, io.TextIOWrapper):
        # Machines without a locale report ASCII, but input is mostly UTF-8.
        encoding = "utf-8" if sys.stdin.encoding.lower() in _ASCII else sys.stdin.encoding
        sys.stdin.reconfigure(encoding=encoding, errors="replace")
    stdout = Output(1, _stdout_lost)
    stderr = Output(2, _stderr_lost)
    sys.stdout = _text(stdout, sys.stdout, io.TextIOWrapper)
    sys.stderr = _text(stderr, sys.stderr, _Escaping)
    return stdout


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _text(raw: Output, former: Any, kind: type[io.TextIOWrapper]) -> io.TextIOWrapper:
    encoding = getattr(former, "encoding", None) or "utf-8"
    if former is not None:
        former.flush()
    is_unbuffered = getattr(former, "write_through", False)  # python -u and PYTHONUNBUFFERED
    return kind(
        raw if is_unbuffered else io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=kind is _Escaping or os.isatty(raw.fileno()),
        write_through=is_unbuffered,
    )


def _stdout_lost(error: OSError) -> None:
    jax = sys.modules.get("jax")
    if error.errno != errno.EPIPE:
        raise error from None
    # With several processes JAX handles the signal and notifies the others.
    if callable(signal.getsignal(signal.SIGTERM)) or (jax and jax.distributed.is_initialized()):
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        raise error from None


def _stderr_lost(error: OSError) -> None:
    """Does nothing: there is no stream left to report to."""
