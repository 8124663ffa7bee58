"""stdin, stdout and stderr in any state: another encoding, closed, a pipe without a reader, full.

- Characters that an encoding lacks are written as escapes; bytes of stdin that are no text are
  replaced.
- A stream that was closed (`>&-`) is the null device.
- A pipe whose reader has gone (`| head -1`) ends the command with status 141, as a shell reports
  SIGPIPE. A process that saves at SIGTERM does so first.
- A terminal that has gone is not missed.
- A full disk under stdout raises OSError once; what is written later is dropped.
- What stderr cannot take is dropped: no work depends on it.
- What goes to stderr has its control characters escaped: libraries log file names there.
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

# 128 + SIGPIPE: what a shell reports of a process that SIGPIPE has ended.
BROKEN_PIPE = 141

_ASCII = ("ascii", "us-ascii", "ansi_x3.4-1968")


class Output(io.FileIO):
    """A descriptor of the process, written to until it takes no more.

    Args:
      when_lost: called once with what went wrong; the writer never hears of it unless this raises.
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
        """Writes some of `data`, returns how many bytes; all of them once the stream is lost."""
        size = memoryview(data).nbytes
        if self._is_lost:
            return size
        try:
            return super().write(data)
        except OSError as error:
            self._is_lost = True
            if error.errno in (errno.EIO, errno.EBADF):
                return size  # the terminal of a process that was left alone
            self.failure = OSError(error.errno, error.strerror, "standard output")
            self._when_lost(self.failure)
        return size


class _Escaping(io.TextIOWrapper):
    def write(self, text: str, /) -> int:
        super().write(printable(text, keep="\n\t\r"))
        return len(text)


def run(command: Callable[[], object]) -> NoReturn:
    """Calls `command` with streams that hold and exits as it does, or as lost output asks."""
    stdout = _take_over()
    status: Any = 0
    try:
        command()
    except SystemExit as end:
        status = end.code
    except OSError as error:
        if not _is_of(stdout, error):
            raise
    try:
        sys.stdout.flush()
    except OSError as error:
        if not _is_of(stdout, error):
            raise
    if stdout.failure is not None and not stdout.is_broken and not status:
        print(f"error: {stdout.failure.filename}: {stdout.failure.strerror}", file=sys.stderr)
        status = 1
    # 75, saved and to be started again: not if nobody wants to see it.
    sys.exit(BROKEN_PIPE if stdout.is_broken and status in (0, None, 75) else status)


def _is_of(stdout: Output, error: OSError) -> bool:
    return stdout.failure is not None and stdout.failure.errno == error.errno


def _take_over() -> Output:
    """Takes over the three streams of the process; returns what is under sys.stdout."""
    closed = [number for number in range(3) if not _is_open(number)]
    for number in closed:
        # Otherwise the next file that is opened would be this stream of every library.
        null = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
        if null != number:
            os.dup2(null, number)
            os.close(null)
    if sys.stdin is None or 0 in closed:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - for good
    elif isinstance(sys.stdin, io.TextIOWrapper):
        # ASCII is what a machine without a locale says; what is typed there is mostly UTF-8.
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
    # python -u and PYTHONUNBUFFERED
    at_once = getattr(former, "write_through", False)
    return kind(
        raw if at_once else io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=kind is _Escaping or os.isatty(raw.fileno()),
        write_through=at_once,
    )


def _stdout_lost(error: OSError) -> None:
    jax = sys.modules.get("jax")
    if error.errno != errno.EPIPE:
        raise error from None
    # With several processes it is JAX that takes the signal, and tells the others.
    if callable(signal.getsignal(signal.SIGTERM)) or (jax and jax.distributed.is_initialized()):
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        raise error from None


def _stderr_lost(error: OSError) -> None:
    """Nobody is left to be told."""
