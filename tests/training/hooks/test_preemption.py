"""Whose signals are taken, and the second Ctrl-C; test_faults.py has what a run makes of them."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from owl_jax.training.hooks.preemption import Interrupted, Preempted, Preemption

# Waits outside Python for a lock that never comes, as for a device or another process.
STUCK = """
import ctypes
from owl_jax.training.hooks.preemption import Preemption

with Preemption() as preemption:
    preemption.training_begins()
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    print("stuck", flush=True)
    libc.pthread_mutex_lock(mutex)
"""


@pytest.fixture
def interruptible():
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def test_the_second_ctrl_c_ends_at_once_whatever_is_waited_for():
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGINT)
    notice = process.stdout.readline()
    assert notice.startswith("interrupted: the run saves at the end of this step; Ctrl-C again")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, "error: interrupted again: ended at once\n")


def test_the_first_waits_for_the_end_of_a_step(interruptible, capfd):
    with Preemption() as preemption:
        preemption.training_begins()
        assert not preemption.reached(1)
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.reached(2)
        with pytest.raises(Interrupted, match="interrupted: step 2 is saved; the same command"):
            preemption.end("step 2 is saved")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert capfd.readouterr().out.count("Ctrl-C again ends it at once") == 1


def test_before_and_after_the_training_it_ends_the_run_where_it_is(interruptible):
    with Preemption(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with Preemption() as preemption:
        preemption.training_begins()
        preemption.training_ends("step 4 of 4 is saved")
        with pytest.raises(KeyboardInterrupt, match=r"^interrupted: step 4 of 4 is saved$"):
            os.kill(os.getpid(), signal.SIGINT)
    with Preemption() as preemption:
        preemption.training_begins()
        os.kill(os.getpid(), signal.SIGINT)  # during the last step
        with pytest.raises(KeyboardInterrupt, match=r"^interrupted: step 4 of 4 is saved$"):
            preemption.training_ends("step 4 of 4 is saved")


def test_sigterm_is_for_a_launcher(interruptible):
    with Preemption() as preemption:
        preemption.training_begins()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Preempted, match="preempted: step 2 is saved") as error:
            preemption.end("step 2 is saved")
    assert error.value.status == 75
    with Preemption(), pytest.raises(Preempted, match="preempted before the first step"):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda number, frame: None])
def test_a_signal_that_is_ignored_or_handled_by_the_program_is_left_alone(interruptible, theirs):
    signal.signal(signal.SIGINT, theirs)  # ignored: by nohup, and in a shell's background
    with Preemption() as preemption:
        preemption.training_begins()
        assert signal.getsignal(signal.SIGINT) is theirs
        os.kill(os.getpid(), signal.SIGINT)
        assert not preemption.reached(1)


def test_a_thread_takes_no_signals(interruptible):
    found = []

    def run():
        with Preemption():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


def test_a_notebook_is_not_ended(interruptible, monkeypatch):
    monkeypatch.setattr(sys, "ps1", "In: ", raising=False)
    with Preemption() as preemption:
        preemption.training_begins()
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.reached(1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
