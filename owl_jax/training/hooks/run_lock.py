"""Allows one run at a time in a workdir.

WORKDIR/run.lock names the run that trains there or did last. Two signs show that this run is alive:
a kernel lock (flock) on the file, which ends with the process, and a heartbeat. The lock is not
enough, because some file systems hide it from other machines (gcsfuse, some mounts of NFS and
Lustre) or have no locks. So the run also rewrites the file every ten seconds. A new run that finds
another machine's name in the file waits for a heartbeat, and takes over the workdir if none comes.

A run that finds another name in the file ends before it saves again. This resolves two simultaneous
starts on machines that do not see each other's locks, and ends a suspended run that wakes up after
another has taken over.

The file stays when the run ends: removing it would race with the next start.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax

from owl_jax.errors import UserError, disk_full, printable
from owl_jax.files import check_regular
from owl_jax.parallel.agreement import raise_together
from owl_jax.training.hooks.hook import Hook
from owl_jax.training.run import StepEvent
from owl_jax.training.start_up import say

FILE_NAME = "run.lock"

_BEAT = 10.0  # seconds between two heartbeats
_FIRST_BEAT = 1.0  # seconds before the first heartbeat, which detects a simultaneous start
_SILENCE = 32.0  # seconds without a heartbeat after which a run on another machine counts as dead

# Spaces pad every record to this many bytes, so that nobody reads half a record.
_SIZE = 1024

# Errors of flock on file systems without locks.
_NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.EPERM, errno.EINVAL, errno.ENOSYS)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class HoldWorkdir(Hook):
    """Process 0 locks the workdir for all processes; all end if another run holds it."""

    @contextmanager
    def holding(self, workdir: Path) -> Iterator[None]:
        """Holds the workdir. Raises UserError as RunLock does."""
        self._lock, refusal = None, None
        with ExitStack() as held:
            if jax.process_index() == 0:
                try:
                    self._lock = held.enter_context(RunLock(workdir, say))
                except UserError as error:
                    refusal = error
            raise_together(refusal, f"process 0 cannot take {workdir} for this run")
            yield

    def after_step(self, event: StepEvent) -> None:
        """Raises UserError if another run has taken the workdir."""
        if self._lock:
            self._lock.check()


class RunLock:
    """Holds a workdir for this run; a context manager around it.

    Args:
      workdir: made if missing.
      tell: called with a line of text when the lock waits, and when it takes over.
      silence: seconds without a heartbeat after which a run on another machine counts as dead.

    Raises:
      UserError: another run, named in the message, holds it; or the file cannot be written.
    """

    def __init__(
        self,
        workdir: Path,
        tell: Callable[[str], None] = print,
        silence: float = _SILENCE,
        beat: float = _BEAT,
    ) -> None:
        self._workdir, self._path = workdir, workdir / FILE_NAME
        self._tell, self._silence, self._every = tell, silence, beat
        self._record: dict[str, Any] = {
            "host": platform.node(),
            "boot": _boot_id(),
            "pid": os.getpid(),
            "since": _now(),
            "run": uuid.uuid4().hex,
            "beats": 0,
        }
        self._descriptor: int | None = None
        self._other: dict[str, Any] | None = None  # the run that has taken over the workdir
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)

    def __enter__(self) -> Self:
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._other is None:
            self._write(self._record | {"ended": _now()})
        self._let_go()

    def check(self) -> None:
        """Raises UserError if another run has taken the workdir; call it before each save."""
        if self._other is not None:
            raise UserError(
                f"another run has taken over {self._workdir}: {_named(self._other)}; this one ends "
                "without saving. Give each run its own --workdir"
            )

    def _take(self) -> None:
        try:
            self._workdir.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            if disk_full(error):
                raise
            raise UserError(
                f"cannot write checkpoints to {self._workdir}: {self._path.name}: "
                f"{error.strerror}; give another --workdir, or the right to write to it"
            ) from None
        assert self._descriptor is not None
        try:
            locked = self._lock()
            found = self._read()
            if locked is False:
                for _ in range(20):  # the holder may not have written its name yet
                    if found and not self._is_gone(found):
                        break
                    time.sleep(0.05)
                    found = self._read()
                raise self._in_use(found)
            if found and "ended" not in found:
                if not (locked and self._is_this_machine(found)):
                    self._wait_for_heartbeat(found)
                self._tell(
                    f"{self._path} names {_named(found)}, which was killed or lost; this run takes "
                    "over"
                )
            self._write(self._record)
        except BaseException:
            self._let_go()
            raise

    def _is_this_machine(self, found: dict[str, Any]) -> bool:
        return all(found.get(key) == self._record[key] for key in ("host", "boot"))

    def _is_gone(self, found: dict[str, Any]) -> bool:
        if "ended" in found:
            return True
        return self._is_this_machine(found) and not Path(f"/proc/{found.get('pid')}").exists()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o666)
        try:
            check_regular(self._descriptor, self._path)
        except OSError:
            self._let_go()
            raise

    def _lock(self) -> bool | None:
        """Takes the kernel's lock. Returns whether it was free; None if there are no locks."""
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def _wait_for_heartbeat(self, found: dict[str, Any]) -> None:
        """Waits for a heartbeat of the run that was found. Raises UserError if it is alive."""
        self._tell(
            f"{self._path} names {_named(found)}, on another machine or file system: waiting "
            f"{self._silence:.0f} s for a heartbeat"
        )
        end = time.monotonic() + self._silence
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(0.5, left))
            now = self._read() or found
            if "ended" in now:
                return
            if now != found:
                raise self._in_use(now)

    def _in_use(self, found: dict[str, Any] | None) -> UserError:
        return UserError(
            f"{self._workdir} is in use by another run: {_named(found)}. Wait for it, end it, or "
            "give another --workdir"
        )

    def _beat(self) -> None:
        wait = min(_FIRST_BEAT, self._every)
        while not self._ended.wait(wait):
            wait = self._every
            found = self._read()
            if found and found.get("run") != self._record["run"]:
                self._other = found
                return
            self._record["beats"] += 1
            self._write(self._record)

    def _read(self) -> dict[str, Any] | None:
        """The record in the file; None if there is no valid one.

        Opens the file each time: otherwise network file systems do not show other machines' writes.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                data = os.read(descriptor, _SIZE)
            finally:
                os.close(descriptor)
            values = json.loads(data)
        except (OSError, ValueError, RecursionError):
            return None
        return values if isinstance(values, dict) and "run" in values else None

    def _write(self, record: dict[str, Any]) -> None:
        """Writes in place: a renamed new file would not be locked."""
        data = json.dumps(record).encode().ljust(_SIZE - 1) + b"\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                os.pwrite(descriptor, data, 0)
                os.ftruncate(descriptor, _SIZE)
            finally:
                os.close(descriptor)  # mounted buckets and NFS show it to others only then
        except OSError:
            # The lock is still held, and the next heartbeat tries again.
            return

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _boot_id() -> str:
    """Distinguishes machines with the same host name, such as containers in a cluster."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _named(record: dict[str, Any] | None) -> str:
    if not record:
        return "an unnamed one"
    host, pid, since = (
        printable(str(record.get(key, "?")))[:80] for key in ("host", "pid", "since")
    )
    return f"process {pid} on {host}, since {since}"
