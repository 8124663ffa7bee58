"""Starts Python by fork: what each process would import anew, this process has imported.

It runs as `python -c TEXT-OF-THIS-FILE DESCRIPTOR-OF-A-SOCKET` (forked.py). Nothing runs in it yet
when it forks: JAX has no backend, Python no second thread. From there on a process is what
`python ARGUMENTS` is, with working directory, environment, session, stdout and stderr of its own.
"""

import gc
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import httpx2  # noqa: F401 - most of the time that the hub's library takes to import
import tiny
from jax._src import compilation_cache, compiler, xla_bridge

import owl_jax.checkpoint.adapter_base
import owl_jax.cli
import owl_jax.inference.dialogue
import owl_jax.training.loop
import owl_jax.training.start_up  # noqa: F401 - all that the commands import in main
from owl_jax.models.lora import LoraConfig
from owl_jax.models.vlm import abstract_params
from owl_jax.training.report import write_curves


def prepare():
    """Does once what each run does: traces the tests' model, imports what draws its report."""
    with patch("jax.default_backend", return_value="cpu"):  # without making it
        for lora in None, LoraConfig(rank=2, alpha=4.0, dropout=0.1):
            abstract_params(replace(tiny.CONFIG, lora=lora))
    with tempfile.TemporaryDirectory() as workdir:
        metrics = Path(workdir, "metrics.jsonl")
        metrics.write_text("".join(f'{{"step": {n}, "loss": {n}.0}}\n' for n in (1, 2)))
        write_curves(Path(workdir, "report.html"), Path(workdir))
    assert not xla_bridge.backends_are_initialized() and threading.active_count() == 1


def keep_programs_of_every_process():
    """JAX keeps those of process 0 only, for the sake of slow file systems.

    Programs of the others have other keys: each run of two processes would compile them anew.
    """

    def write(key, seconds, name, backend, executable, host_callbacks):
        if not host_callbacks:  # they belong to the process that has compiled them
            compilation_cache.put_executable_and_time(key, name, executable, backend, int(seconds))

    compiler._cache_write = write


def wait_for_orders(control):
    """Returns its order in each process; ends the server when its client has gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that report below
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 3)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stdout, stderr, status = descriptors
    if process := os.fork():
        os.close(stdout)
        os.close(stderr)
        control.send(str(process).encode())
        _, ended = os.waitpid(process, 0)
        os.write(status, str(os.waitstatus_to_exitcode(ended)).encode())
        os._exit(0)

    control.close()
    os.close(status)
    for descriptor, number in (stdout, 1), (stderr, 2):
        os.dup2(descriptor, number)
        os.close(descriptor)
    order = json.loads(message)
    if order["start_new_session"]:
        os.setsid()
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environment"])
    return order["arguments"]


def run_python(arguments):
    """Does what `python` does with -u, then with -m MODULE, -c CODE or FILE and what follows it."""
    match arguments:
        case ["-u", *rest]:
            sys.stdout.reconfigure(write_through=True)
            run_python(rest)
        case ["-m", module, *rest]:
            sys.argv, sys.path[0] = ["", *rest], str(Path.cwd())
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv, sys.path[0] = ["-c", *rest], ""
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case [file, *_]:
            sys.argv, sys.path[0] = arguments, str(Path(file).resolve().parent)
            runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    prepare()
    keep_programs_of_every_process()
    # A process would collect what is imported at its end, which takes it half a second.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # as in conftest.py
    run_python(wait_for_orders(socket.socket(fileno=int(sys.argv[1]))))
