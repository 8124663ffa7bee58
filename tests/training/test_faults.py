"""What happens to machines: preemption, kills in mid-save, damaged files, hangs.

Real processes and real signals; a run that was hit goes on to the bits of one that never was.
"""

import os
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

PREEMPTED, INTERRUPTED = 75, 130
TIMELESS = ("step", "loss", "grad_norm", "supervised_tokens", "learning_rate/lora", "dropped")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faults")
    base = tiny.write_model(directory / "base")
    config = CONFIG.format(base=base).replace("steps = 20", "steps = 40")
    (directory / "config.py").write_text(config)
    return directory


@pytest.fixture(scope="module")
def unhurt(files):
    """A run of one process that nothing happened to."""
    code, _, err = command(files / "config.py", files / "unhurt", "--config.export=none")
    assert code == 0, err
    return files / "unhurt"


@pytest.fixture(scope="module")
def unhurt_pair(files):
    """The same of two processes."""
    processes = start_several(files / "config.py", files / "pair", "--config.export=none")
    assert [code for code, _, _ in finish(processes)] == [0, 0]
    return files / "pair"


def wait_for_step(process, step):
    """Reads what a process prints until it logs a step from `step` on; returns the lines."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        counter = line.split()[1:2]
        if counter and counter[0].endswith("/40") and int(counter[0].split("/")[0]) >= step:
            return lines
    raise AssertionError(f"ended before step {step}: {lines} {process.stderr.read()}")


def assert_the_same(workdir, expected):
    assert state_of(workdir, 40) == state_of(expected, 40)
    for got, wanted in zip(metrics_of(workdir), metrics_of(expected), strict=True):
        assert [got[name] for name in TIMELESS] == [wanted[name] for name in TIMELESS]


def test_sigterm_saves_and_the_same_command_goes_on(files, unhurt):
    workdir = files / "preempted"
    process = start(files / "config.py", workdir, "--config.export=none")
    wait_for_step(process, 7)
    for _ in range(2):  # as from a launcher and from the system
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    ((code, out, err),) = finish([process])
    assert (code, err) == (PREEMPTED, "")
    step = steps_of(workdir)[-1]
    assert 7 <= step < 40
    assert f"preempted: step {step} of 40 is saved in {workdir}" in out.splitlines()[-1]
    assert metrics_of(workdir)[-1]["step"] == step

    code, out, err = command(files / "config.py", workdir, "--config.export=none")
    assert code == 0, err
    assert f"resumed from step {step} of" in out
    assert_the_same(workdir, unhurt)


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
    assert "preempted: no step was taken yet" in out.splitlines()[-1]

    # JAX's coordination service takes the signal of one process, too.
    (process,) = start_several(files / "config.py", files / "early", count=1, devices=1)
    wait_for_table(process)
    process.send_signal(signal.SIGTERM)
    ((code, out, err),) = finish([process])
    assert code == PREEMPTED, err
    assert f"preempted: step {steps_of(files / 'early')[-1]} of 40 is saved" in out


def test_sigterm_to_one_of_two_saves_at_the_same_step_on_both(files, unhurt_pair):
    workdir = files / "preempted_pair"
    both = start_several(files / "config.py", workdir, "--config.export=none")
    wait_for_step(both[0], 7)
    both[1].send_signal(signal.SIGTERM)
    results = finish(both)
    assert [code for code, _, _ in results] == [PREEMPTED, PREEMPTED], results
    step = steps_of(workdir)[-1]
    assert 7 <= step < 40
    positions = workdir / "checkpoints" / str(step) / "data"
    assert sorted(path.name for path in positions.glob("process_*")) == [
        "process_0-of-2.json",
        "process_1-of-2.json",
    ]
    assert f"preempted: step {step} of 40" in results[0][1]
    assert "preempted" not in results[1][1]

    again = finish(start_several(files / "config.py", workdir, "--config.export=none"))
    assert [code for code, _, _ in again] == [0, 0], again
    assert f"resumed from step {step} of" in again[0][1]
    assert_the_same(workdir, unhurt_pair)


def test_ctrl_c_saves_and_the_same_command_goes_on(files, unhurt):
    """As a terminal sends it: to the worker processes that decode, too."""
    workdir = files / "interrupted"
    arguments = ("--config.export=none", "--config.data.workers=1")
    process = start(files / "config.py", workdir, *arguments, start_new_session=True)
    wait_for_step(process, 7)
    os.killpg(process.pid, signal.SIGINT)
    ((code, out, err),) = finish([process])
    assert code == INTERRUPTED
    step = steps_of(workdir)[-1]
    assert 7 <= step < 40
    saved = f"step {step} of 40 is saved in {workdir}; the same command goes on from there"
    assert err == f"error: interrupted: {saved}\n"
    assert out.count("interrupted: the run saves at the end of this step; Ctrl-C again") == 1

    code, out, err = command(files / "config.py", workdir, "--config.export=none")
    assert code == 0, err
    assert f"resumed from step {step} of" in out
    assert_the_same(workdir, unhurt)


def test_ctrl_c_before_the_first_step_ends_at_once(files):
    process = start(files / "config.py", files / "never", "--config.export=none")
    wait_for_table(process)
    process.send_signal(signal.SIGINT)
    ((code, _, err),) = finish([process])
    assert (code, err) == (INTERRUPTED, "error: interrupted\n")
    assert not [*files.glob("never/checkpoints/*")]


def test_ctrl_c_to_one_of_two_saves_at_the_same_step_on_both(files):
    workdir = files / "interrupted_pair"
    both = start_several(files / "config.py", workdir, "--config.export=none")
    wait_for_step(both[0], 7)
    both[1].send_signal(signal.SIGINT)
    results = finish(both)
    # Not 75, which a launcher would start again.
    assert [code for code, _, _ in results] == [INTERRUPTED, INTERRUPTED], results
    step = steps_of(workdir)[-1]
    assert 7 <= step < 40
    assert results[0][2].endswith(f"error: interrupted: step {step} of 40 is saved in {workdir}; "
                                  "the same command goes on from there\n")  # fmt: skip


def test_a_kill_in_mid_save_costs_one_interval(files, unhurt):
    workdir = files / "killed"
    process = start(files / "config.py", workdir, "--config.export=none")
    wait_for_step(process, 1)
    unfinished = []
    while not unfinished:
        assert process.poll() is None, "ended before it was caught in a save"
        if list(workdir.glob("checkpoints/*tmp*")) and steps_of(workdir):
            process.send_signal(signal.SIGSTOP)  # nothing moves while it is looked at
            time.sleep(0.05)
            unfinished = list(workdir.glob("checkpoints/*tmp*"))
            process.send_signal(signal.SIGKILL if unfinished else signal.SIGCONT)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    good, saving = steps_of(workdir)[-1], int(unfinished[0].name.split(".")[0])
    assert saving - 5 <= good < saving

    code, out, err = command(files / "config.py", workdir, "--config.export=none")
    assert code == 0, err
    assert f"resumed from step {good} of" in out
    assert_the_same(workdir, unhurt)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken_if_asked(files, unhurt):
    workdir = files / "damaged"
    shutil.copytree(unhurt, workdir)
    arrays = [path for path in (workdir / "checkpoints/40/state").rglob("*") if path.is_file()]
    largest = max(arrays, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)

    code, _, err = command(files / "config.py", workdir, "--config.export=none")
    (line,) = err.splitlines()
    assert code == 1
    assert line.startswith(f"error: checkpoint {workdir}/checkpoints/40 is damaged: ")
    assert "go on from the one before it, of step 35, give --config.skip_damaged=True" in line
    assert steps_of(workdir) == [35, 40]

    arguments = ("--config.export=none", "--config.skip_damaged=True")
    code, out, err = command(files / "config.py", workdir, *arguments)
    assert code == 0, err
    assert f"moved to {workdir}/checkpoints-damaged/40" in out
    assert "resumed from step 35 of" in out
    assert (workdir / "checkpoints-damaged/40/state").is_dir()
    assert_the_same(workdir, unhurt)


@pytest.mark.parametrize("largest", [2_000, 20_000])
def test_a_full_disk_costs_one_interval(files, unhurt, largest):
    """The kernel refuses to let files grow: metrics first, or a checkpoint."""
    workdir = files / f"full-{largest}"
    process = start(files / "config.py", workdir, "--config.export=none")
    wait_for_step(process, 13)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    ((code, _, err),) = finish([process])
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith("error: ")
    assert str(workdir) in err
    assert "File too large" in err
    assert "ree some space and run the" in err

    code, out, err = command(files / "config.py", workdir, "--config.export=none")
    assert code == 0, err
    assert "resumed from step " in out
    assert_the_same(workdir, unhurt)


def test_damage_to_what_one_process_reads_is_an_error_of_both(files, unhurt_pair):
    workdir = files / "damaged_pair"
    shutil.copytree(unhurt_pair, workdir)
    os.truncate(workdir / "checkpoints/40/data/process_1-of-2.json", 100)

    results = finish(start_several(files / "config.py", workdir, "--config.export=none"))
    assert [code for code, _, _ in results] == [1, 1], results
    for (_, _, err), reason in zip(results, ["process 1 cannot read its shard", "Un"], strict=True):
        assert f"error: checkpoint {workdir}/checkpoints/40 is damaged: {reason}" in err
        assert "Traceback" not in err

    arguments = ("--config.export=none", "--config.skip_damaged=True")
    results = finish(start_several(files / "config.py", workdir, *arguments))
    assert [code for code, _, _ in results] == [0, 0], results
    assert "resumed from step 35 of" in results[0][1]
    assert_the_same(workdir, unhurt_pair)


def test_a_process_whose_other_is_killed_ends_too(files):
    arguments = ("--config.export=none", "--config.hang_exit=15")
    both = start_several(files / "config.py", files / "alone", *arguments)
    wait_for_step(both[0], 3)
    both[1].send_signal(signal.SIGKILL)
    _, err = both[0].communicate(timeout=200)
    both[1].communicate()
    # Its part of a step fails, or is waited for.
    assert both[0].returncode == PREEMPTED, err
    assert "another process is gone" in err or "hung for " in err


def test_a_hung_step_is_reported_with_stacks_and_ended_if_asked(files):
    """One process of two stands still: the other waits for its part of a step."""
    workdir = files / "hung"
    arguments = ("--config.hang_report=5", "--config.hang_exit=15", "--config.export=none")
    both = start_several(files / "config.py", workdir, *arguments)
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
