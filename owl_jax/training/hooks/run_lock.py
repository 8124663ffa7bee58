"""One run at a time in a workdir: WORKDIR/run.lock says who trains there, or did last.

Two things say that a run is alive. The kernel's lock (flock) on the file goes with its process, so
a killed run leaves none behind; but not every file system tells other machines of it (gcsfuse, some
mounts of NFS and Lustre), and some have none. So the run also rewrites the file every ten seconds,
a heartbeat: a start that finds the name of another machine waits for the next one before it takes
the workdir over. A run whose name is not in the file any more ends before it saves again: that
decides between two that started at once on machines that do not see each other's locks, and ends
one that stood still while another took over.

The file stays when the run has ended: removing it would race with the next start.
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

# Seconds: between two heartbeats; before the first, which finds another that started at once; and
# without any before a run on another machine is taken for dead.
_BEAT, _FIRST_BEAT, _SILENCE = 10.0, 1.0, 32.0

# Of a record, padded with spaces: always the same size, so that no half of one is ever read.
_SIZE = 1024

# What flock answers where the file system has no locks.
_NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.EPERM, errno.EINVAL, errno.ENOSYS)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class HoldWorkdir(Hook):
    """The first of several processes holds the workdir for all; all end if another run has it."""

    @contextmanager
    def holding(self, workdir: Path) -> Iterator[None]:
        """Holds it. Raises UserError as RunLock."""
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
      tell: gets a line about what is waited for or taken over.
      silence: seconds without a heartbeat that tell a run on another machine from a dead one.

    Raises:
      UserError: another run holds it, which is named; or the file cannot be written.
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
        self._other: dict[str, Any] | None = None  # who has taken the workdir from this run
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
        """Raises UserError if another run has taken the workdir; to be asked before each save."""
        if self._other is not None:
            raise UserError(
                f"another run has taken over {self._workdir}: {_named(self._other)}; this one ends "
                "without saving. Give each run a --workdir of its own"
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
                for _ in range(20):  # who has just taken it has not written its name yet
                    if found and not self._is_gone(found):
                        break
                    time.sleep(0.05)
                    found = self._read()
                raise self._in_use(found)
            if found and "ended" not in found:
                if not (locked and self._is_of_here(found)):
                    self._watch(found)
                self._tell(
                    f"{self._path} names {_named(found)}, which was killed or lost; taken over"
                )
            self._write(self._record)
        except BaseException:
            self._let_go()
            raise

    def _is_of_here(self, found: dict[str, Any]) -> bool:
        return all(found.get(key) == self._record[key] for key in ("host", "boot"))

    def _is_gone(self, found: dict[str, Any]) -> bool:
        if "ended" in found:
            return True
        return self._is_of_here(found) and not Path(f"/proc/{found.get('pid')}").exists()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o666)
        try:
            check_regular(self._descriptor, self._path)
        except OSError:
            self._let_go()
            raise

    def _lock(self) -> bool | None:
        """Whether the kernel's lock is ours; None where the file system has none."""
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

    def _watch(self, found: dict[str, Any]) -> None:
        """Returns when the run that is found has been silent. Raises UserError if it is alive."""
        self._tell(
            f"{self._path} names {_named(found)}, on another machine or file system: waits "
            f"{self._silence:.0f} s for a sign of life"
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
            f"{self._workdir} is in use by another run: {_named(found)}. Wait for its end or end "
            "it, or give another --workdir"
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
        """What the file says; None for nothing, or nothing that makes sense.

        It is opened each time: network file systems show what others have written only then.
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
        """Writes in place: another file under this name would not be locked."""
        data = json.dumps(record).encode().ljust(_SIZE - 1) + b"\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                os.pwrite(descriptor, data, 0)
                os.ftruncate(descriptor, _SIZE)
            finally:
                os.close(descriptor)  # when mounted buckets and NFS show it to others
        except OSError:
            # The lock is held all the same, and the next heartbeat comes.
            return

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _boot_id() -> str:
    """Tells machines of one name apart, as containers in a cluster are."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _named(record: dict[str, Any] | None) -> str:
    if not record:
        return "one that has not told its name"
    host, pid, since = (
        printable(str(record.get(key, "?")))[:80] for key in ("host", "pid", "since")
    )
    return f"process {pid} on {host}, since {since}"
