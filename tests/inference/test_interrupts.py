import os
import pty
import signal
import subprocess
import sys
import threading

import forked
import jax
import numpy as np
import pytest

from owl_jax.inference.interrupts import asked_to_stop, readline_woken, uninterrupted


@pytest.fixture(autouse=True)
def handlers():
    """Python's own handler, also where tests run with SIGINT ignored."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def test_an_interrupt_waits_for_the_end_of_the_block_and_is_raised_once():
    reached = False
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        reached = True
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_is_noted_and_raises_nothing():
    with asked_to_stop() as stopped:
        assert not stopped()
        for _ in range(2):
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGINT)
            assert stopped()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_nothing_can_be_noted_the_answer_is_no():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with asked_to_stop() as stopped:
        os.kill(os.getpid(), signal.SIGINT)
        assert not stopped()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    found = []

    def elsewhere():
        with asked_to_stop() as stopped:
            found.append(stopped())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_handler_that_exits_waits_too():
    def leave(number, frame):
        raise SystemExit(7)

    former = signal.signal(signal.SIGTERM, leave)
    try:
        reached = False
        with pytest.raises(SystemExit), uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            reached = True
        assert reached
        assert signal.getsignal(signal.SIGTERM) is leave
    finally:
        signal.signal(signal.SIGTERM, former)


def test_ignored_signals_stay_ignored_and_errors_pass():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with uninterrupted():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(ValueError, match="of the block"), uninterrupted():
        raise ValueError("of the block")


def test_other_threads_are_left_alone():
    done = []

    def work():
        with uninterrupted():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]


PROGRAM = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
import jax, owl_jax
from owl_jax.inference import generate
owl = owl_jax.load(sys.argv[1], "float32")
case = sys.argv[2]
if case == "abandoned":
    pieces = owl.chat("Human: What?\\nAI: ", stream=True, max_new_tokens=150)
    next(pieces)
    sys.exit(3)
decode = generate.decode_steps
calls = []
def interrupted(*arguments):
    calls.append(arguments)
    state = decode(*arguments)
    os.kill(os.getpid(), signal.SIGINT)  # as the device works
    return state
generate.decode_steps = interrupted
try:
    owl.generate([[1, 2, 3]], max_new_tokens=150, eos_token_id=-1)
except KeyboardInterrupt:
    sys.exit(len(calls))
"""


@pytest.mark.parametrize(("case", "status"), [("abandoned", 3), ("generate", 1)])
def test_a_process_leaves_in_the_middle_of_an_answer(tiny_model, case, status):
    done = forked.run("-c", PROGRAM, str(tiny_model), case)
    assert (done.returncode, done.stderr) == (status, "")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    import tiny

    return tiny.write_model(tmp_path_factory.mktemp("models") / "tiny")


def test_device_work_is_whole_when_it_is_interrupted():
    result = None
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        result = jax.block_until_ready(jax.numpy.arange(4) * 2)
    np.testing.assert_array_equal(result, [0, 2, 4, 6])


# A thread takes the signal, so readline goes on waiting for a key, as if it had missed the signal.
MISSED = """
import readline, signal, threading
from owl_jax.inference.interrupts import readline_woken
signal.signal(signal.SIGINT, signal.default_int_handler)
miss = lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)
try:
    with readline_woken():
        threading.Timer(0.3, miss).start()
        input()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_signal_that_readline_missed_is_handled():
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-c", MISSED],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            timeout=120,
            check=True,
        )
        assert b"interrupted" in os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)


def test_waking_readline_leaves_nothing_behind():
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt), readline_woken():
        os.kill(os.getpid(), signal.SIGINT)
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL
