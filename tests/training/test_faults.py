"""What happens to machines: preemption, kills in mid-save, damaged files, hangs.

Real processes and real signals; a run that was hit ends with the bits of one that never was. One
run takes one hit after the other, since each new process costs seconds.
"""

import os
import re
import resource
import shutil
import signal
import time

import pytest
import tiny
from training_runs import (
    CONFIG,
    command,
    finish,
    metrics_of,
    start,
    start_several,
    state_of,
    steps_of,
)

pytestmark = pytest.mark.processes

PREEMPTED, INTERRUPTED = 75, 130
STEPS, STEPS_OF_TWO = 100, 90
TIMELESS = ("step", "loss", "grad_norm", "supervised_tokens", "learning_rate/lora", "dropped")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faults")
    base = tiny.write_model(directory / "base")
    config = CONFIG.format(base=base).replace("steps = 20", f"steps = {STEPS}")
    (directory / "config.py").write_text(config)
    return directory


@pytest.fixture(scope="module")
def started_twice(files):
    """Two runs that were started in one workdir at once: exit status, process, stdout, stderr."""
    runs = [start(files / "config.py", files / "unhurt", "--config.export=none") for _ in range(2)]
    return [
        (code, run.pid, out, err) for run, (code, out, err) in zip(runs, finish(runs), strict=True)
    ]


@pytest.fixture(scope="module")
def unhurt(files, started_twice):
    """A run of one process that nothing happened to, but that another wanted its workdir."""
    assert 0 in [code for code, _, _, _ in started_twice], started_twice
    return files / "unhurt"


@pytest.fixture(scope="module")
def unhurt_pair(files):
    """The same of two processes."""
    assert [code for code, _, _ in finish(start_two(files, files / "pair"))] == [0, 0]
    return files / "pair"


def start_two(files, workdir, *arguments):
    """With a device each: what happens to processes needs no more.

    Each holds all weights, so a step exchanges little: a process that waits for the other's part
    of an exchange takes a whole core. test_training_processes.py has weights that are sharded.
    """
    whole_weights = ("--config.mesh.data=2", "--config.mesh.fsdp=1")
    arguments = (
        "--config.export=none", f"--config.steps={STEPS_OF_TWO}", *whole_weights, *arguments
    )  # fmt: skip
    return start_several(files / "config.py", workdir, *arguments, count=2, devices=1)


def wait_for_step(process, step):
    """Reads what a process prints until it logs a step from `step` on; returns what it read."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        counter = re.match(r"\S+ (\d+)/\d+ ", line)
        if counter and int(counter[1]) >= step:
            return "".join(lines)
    raise AssertionError(f"ended before step {step}: {lines} {process.stderr.read()}")


def assert_the_same(workdir, expected, steps=STEPS):
    assert state_of(workdir, steps) == state_of(expected, steps)
    for got, wanted in zip(metrics_of(workdir), metrics_of(expected), strict=True):
        assert [got[name] for name in TIMELESS] == [wanted[name] for name in TIMELESS]


def resume(files, workdir, *arguments, **options):
    """Starts a run of one process again and lets it take some steps: (process, its last step)."""
    step = steps_of(workdir)[-1]
    process = start(files / "config.py", workdir, "--config.export=none", *arguments, **options)
    assert f"resumed from step {step} of" in wait_for_step(process, step + 3)
    return process, step


def test_of_two_runs_in_one_workdir_one_trains(unhurt, started_twice):
    (code, winner, _, err), (refused, _, nothing, line) = sorted(started_twice)
    assert (code, err, refused, nothing) == (0, "", 1, "")
    expected = f"error: {unhurt} is in use by another run: process {winner} on "
    assert line.startswith(expected) and line.count("\n") == 1
    assert [metrics["step"] for metrics in metrics_of(unhurt)] == list(range(1, STEPS + 1))
    assert steps_of(unhurt) == [STEPS - 5, STEPS]
    # That its bits are those of a run alone, the tests of resumed runs below find.


def test_a_flipped_bit_of_a_checkpoint_is_damage(files, unhurt):
    workdir = files / "flipped"
    shutil.copytree(unhurt, workdir)
    newest = workdir / f"checkpoints/{STEPS}"

    def flip(path, place):
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)

    position = newest / "data/process_0-of-1.json"
    digit = re.search(rb'"next_index": \d*(\d)', position.read_bytes()).start(1)
    flip(position, digit)
    code, out, err = command(files / "config.py", workdir, "--config.export=none")
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith(f"error: checkpoint {newest} is damaged: its position in")
    assert "resumed" not in out and steps_of(workdir) == [STEPS - 5, STEPS]
    flip(position, digit)

    arrays = (path for path in (newest / "state").rglob("*") if path.is_file())
    largest = max(arrays, key=lambda path: path.stat().st_size)
    flip(largest, largest.stat().st_size // 2)
    arguments = ("--config.export=none", "--config.skip_damaged=True")
    code, out, err = command(files / "config.py", workdir, *arguments)
    assert code == 0, err
    assert f"moved to {workdir}/checkpoints-damaged/{STEPS}" in out
    assert f"resumed from step {STEPS - 5} of" in out
    assert_the_same(workdir, unhurt)


def test_a_run_that_is_hit_again_and_again_ends_as_one_that_never_was(files, unhurt):
    workdir = files / "hit"
    sigterm_saves(files, workdir)
    ctrl_c_saves(files, workdir)
    a_kill_in_mid_save_costs_one_interval(files, workdir)
    for largest in 2_000, 50_000:  # metrics first, or a checkpoint
        a_full_disk_costs_one_interval(files, workdir, largest)
    before = a_damaged_checkpoint_is_named(files, workdir)

    damaged = steps_of(workdir)[-1]
    arguments = ("--config.export=none", "--config.skip_damaged=True")
    code, out, err = command(files / "config.py", workdir, *arguments)
    assert (code, err) == (0, "")
    assert f"moved to {workdir}/checkpoints-damaged/{damaged}" in out
    assert f"resumed from step {before} of" in out
    assert (workdir / f"checkpoints-damaged/{damaged}/state").is_dir()
    assert_the_same(workdir, unhurt)


def sigterm_saves(files, workdir):
    process = start(files / "config.py", workdir, "--config.export=none")
    wait_for_step(process, 7)
    for _ in range(2):  # as from a launcher and from the system
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    ((code, out, err),) = finish([process])
    assert (code, err) == (PREEMPTED, "")
    step = steps_of(workdir)[-1]
    assert 7 <= step < STEPS
    assert f"preempted: step {step} of {STEPS} is saved in {workdir}" in out.splitlines()[-1]
    assert metrics_of(workdir)[-1]["step"] == step


def ctrl_c_saves(files, workdir):
    """As a terminal sends it: to the worker processes that decode, too."""
    process, former = resume(files, workdir, "--config.data.workers=1", start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    ((code, out, err),) = finish([process])
    assert code == INTERRUPTED
    step = steps_of(workdir)[-1]
    assert former + 3 <= step < STEPS
    saved = f"step {step} of {STEPS} is saved in {workdir}; the same command resumes from there"
    assert err == f"error: interrupted: {saved}\n"
    assert out.count("interrupted: the run saves at the end of this step; Ctrl-C again") == 1


def a_kill_in_mid_save_costs_one_interval(files, workdir):
    process, _ = resume(files, workdir)
    unfinished = []
    while not unfinished:
        assert process.poll() is None, "ended before it was caught in a save"
        if list(workdir.glob("checkpoints/*tmp*")):
            process.send_signal(signal.SIGSTOP)  # nothing moves while it is looked at
            time.sleep(0.05)
            unfinished = list(workdir.glob("checkpoints/*tmp*"))
            process.send_signal(signal.SIGKILL if unfinished else signal.SIGCONT)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    good, saving = steps_of(workdir)[-1], int(unfinished[0].name.split(".")[0])
    assert saving - 5 <= good < saving


def a_full_disk_costs_one_interval(files, workdir, largest):
    """The kernel refuses to let files grow."""
    process, _ = resume(files, workdir)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    ((code, _, err),) = finish([process])
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith("error: ")
    assert str(workdir) in err
    assert "File too large" in err
    assert "ree some space and run the" in err


def a_damaged_checkpoint_is_named(files, workdir):
    """Returns the step of the one before it."""
    steps = steps_of(workdir)
    before, newest = steps[-2:]
    state = workdir / f"checkpoints/{newest}/state"
    largest = max(
        (path for path in state.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    os.truncate(largest, largest.stat().st_size // 2)

    code, _, err = command(files / "config.py", workdir, "--config.export=none")
    (line,) = err.splitlines()
    assert code == 1
    assert line.startswith(f"error: checkpoint {workdir}/checkpoints/{newest} is damaged: ")
    assert f"resume from the checkpoint of step {before}, add --config.skip_damaged=True" in line
    assert steps_of(workdir) == [before, newest]
    return before


def wait_for_table(process):
    """What is trained is printed before the weights are read."""
    for line in process.stdout:
        if line.startswith("partition"):
            return


def test_sigterm_before_the_first_step(files):
    process = start(files / "config.py", files / "early", "--config.export=none")
    wait_for_table(process)
    process.send_signal(signal.SIGTERM)
    ((code, out, err),) = finish([process])
    assert (code, err) == (PREEMPTED, "")
    assert "preempted before the first step" in out.splitlines()[-1]

    # JAX's coordination service takes the signal of one process, too.
    (process,) = start_several(files / "config.py", files / "early", count=1, devices=1)
    wait_for_table(process)
    process.send_signal(signal.SIGTERM)
    ((code, out, err),) = finish([process])
    assert code == PREEMPTED, err
    assert f"preempted: step {steps_of(files / 'early')[-1]} of {STEPS} is saved" in out


def test_two_processes_that_are_hit_end_as_two_that_never_were(files, unhurt_pair):
    workdir = files / "hit_pair"
    first = sigterm_to_one_saves_at_the_same_step_on_both(files, workdir)
    second = ctrl_c_to_one_saves_at_the_same_step_on_both(files, workdir, first)
    before = damage_to_what_one_reads_is_an_error_of_both(files, workdir, second)

    results = finish(start_two(files, workdir, "--config.skip_damaged=True"))
    assert [code for code, _, _ in results] == [0, 0], results
    assert f"resumed from step {before} of" in results[0][1]
    assert_the_same(workdir, unhurt_pair, STEPS_OF_TWO)


def sigterm_to_one_saves_at_the_same_step_on_both(files, workdir):
    both = start_two(files, workdir)
    wait_for_step(both[0], 7)
    both[1].send_signal(signal.SIGTERM)
    results = finish(both)
    assert [code for code, _, _ in results] == [PREEMPTED, PREEMPTED], results
    step = steps_of(workdir)[-1]
    assert 7 <= step < STEPS_OF_TWO
    positions = workdir / "checkpoints" / str(step) / "data"
    assert sorted(path.name for path in positions.glob("process_*")) == [
        "process_0-of-2.json",
        "process_1-of-2.json",
    ]
    assert f"preempted: step {step} of {STEPS_OF_TWO}" in results[0][1]
    assert "preempted" not in results[1][1]
    return step


def ctrl_c_to_one_saves_at_the_same_step_on_both(files, workdir, former):
    both = start_two(files, workdir)
    assert f"resumed from step {former} of" in wait_for_step(both[0], former + 7)
    both[1].send_signal(signal.SIGINT)
    results = finish(both)
    # Not 75, which a launcher would start again.
    assert [code for code, _, _ in results] == [INTERRUPTED, INTERRUPTED], results
    step = steps_of(workdir)[-1]
    assert former + 7 <= step < STEPS_OF_TWO
    assert results[0][2].endswith(f"error: interrupted: step {step} of {STEPS_OF_TWO} is saved in "
                                  f"{workdir}; the same command resumes from there\n")  # fmt: skip
    return step


def damage_to_what_one_reads_is_an_error_of_both(files, workdir, newest):
    """Returns the step of the checkpoint before it."""
    before = steps_of(workdir)[-2]
    os.truncate(workdir / f"checkpoints/{newest}/data/process_1-of-2.json", 100)
    results = finish(start_two(files, workdir))
    assert [code for code, _, _ in results] == [1, 1], results
    for (_, _, err), reason in zip(results, ["process 1 cannot read its shard", "Un"], strict=True):
        assert f"error: checkpoint {workdir}/checkpoints/{newest} is damaged: {reason}" in err
        assert "Traceback" not in err
    return before


def test_ctrl_c_before_the_first_step_ends_at_once(files):
    # Without the programs of others: it may be ended while it writes one of its own.
    process = start(
        files / "config.py",
        files / "never",
        "--config.export=none",
        JAX_ENABLE_COMPILATION_CACHE="false",
    )
    wait_for_table(process)
    process.send_signal(signal.SIGINT)
    ((code, _, err),) = finish([process])
    assert (code, err) == (INTERRUPTED, "error: interrupted\n")
    assert not [*files.glob("never/checkpoints/*")]


def test_a_process_whose_other_is_killed_ends_too(files):
    both = start_two(files, files / "alone", "--config.hang_exit=15")
    wait_for_step(both[0], 3)
    both[1].send_signal(signal.SIGKILL)
    _, err = both[0].communicate(timeout=200)
    both[1].communicate()
    # Its part of a step fails, or is waited for.
    assert both[0].returncode == PREEMPTED, err
    assert "another process has died" in err or "hung for " in err


def test_a_hung_step_is_reported_with_stacks_and_ended_if_asked(files):
    """One process of two stands still: the other waits for its part of a step."""
    workdir = files / "hung"
    both = start_two(files, workdir, "--config.hang_report=5", "--config.hang_exit=15")
    wait_for_step(both[0], 3)
    both[1].send_signal(signal.SIGSTOP)
    _, err = both[0].communicate(timeout=120)
    both[1].kill()
    both[1].communicate()
    assert both[0].returncode == PREEMPTED, err
    reports = [line for line in err.splitlines() if line.startswith("no step has ended for ")]
    assert len(reports) >= 2
    assert "process 0 of 2, after step " in reports[0]
    assert "Thread 0x" in err and "loop.py" in err and "in train" in err
    assert "exit status 75" in err.splitlines()[-1]
