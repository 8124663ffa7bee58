import re
import shutil
import signal

import pytest
from stubs import LAUNCH, REPOSITORY, TRAINING, Stubs, assert_refused, wait_until

FLAGS = "--xla_gpu_enable_latency_hiding_scheduler=true"

# Prints the flags for XLA; as a training run it ends with the next status in the file `statuses`.
PYTHON = rf"""
if [[ $* == *xla_flags* ]]; then echo {FLAGS}; exit; fi
echo "training: $XLA_FLAGS, devices ${{JAX_LOCAL_DEVICE_IDS-all}}, in $PWD"
if [[ -e $HOME/long ]]; then
    trap 'echo saved; kill $!; exit 75' TERM
    sleep 60 &
    touch "$HOME/started-$$"
    wait
fi
exec 8>>"$HOME/order" && flock 8
status=$(head -n 1 "$HOME/statuses") && sed -i 1d "$HOME/statuses"
exit "$status"
"""


@pytest.fixture
def stubs(tmp_path):
    stubs = Stubs(tmp_path / "stubs")
    stubs.add("python", PYTHON)
    stubs.add("nvidia-smi", "for i in 0 1 2 3; do echo GPU $i; done")
    return stubs


def arguments(stubs, *flags):
    logs = f"--logs={stubs.folder}/logs"
    return ["gpus.sh", "--python=python", logs, *flags, "--", *TRAINING]


def run(stubs, *flags, statuses, **variables):
    (stubs.folder / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    return stubs.run(*arguments(stubs, *flags), **variables)


def trainings(stubs):
    return [call for call in stubs.calls("python") if call[2] == "owl_jax.train"]


def test_one_process_for_all_gpus(stubs):
    result = run(stubs, statuses=[0])
    assert result.returncode == 0, result.stderr
    assert trainings(stubs) == [["python", "-m", "owl_jax.train", *TRAINING]]
    assert f"training: {FLAGS}, devices all, in {REPOSITORY}\n" in result.stdout
    assert stubs.calls("nvidia-smi") == []


def test_no_training_without_its_flags(stubs):
    stubs.add("python", "exit 3")
    assert run(stubs, statuses=[0]).returncode == 3
    assert trainings(stubs) == []


def test_the_callers_flags_come_last(stubs):
    result = run(stubs, statuses=[0], XLA_FLAGS="--xla_of_mine=1")
    assert f"training: {FLAGS} --xla_of_mine=1, " in result.stdout


@pytest.mark.parametrize(
    ("flags", "devices"),
    [
        (["--processes=gpus"], ["0", "1", "2", "3"]),
        (["--processes=2"], ["0,1", "2,3"]),
        (["--processes=2", "--gpus=2"], ["0", "1"]),
    ],
)
def test_several_processes_share_out_the_gpus(stubs, flags, devices):
    result = run(stubs, *flags, "--port=999", statuses=[0] * 4)
    assert result.returncode == 0, result.stderr
    count = len(devices)
    assert sorted(trainings(stubs)) == [
        [
            *("python", "-m", "owl_jax.train", "--multihost"),
            *("--coordinator_address=localhost:999", f"--num_processes={count}"),
            *(f"--process_id={i}", *TRAINING),
        ]
        for i in range(count)
    ]
    printed = [result.stdout] + [
        (stubs.folder / "logs" / f"process-{i}.log").read_text() for i in range(1, count)
    ]
    for text, own in zip(printed, devices, strict=True):
        assert re.findall("devices (.*), in", text) == [own]
    assert len(stubs.calls("nvidia-smi")) == (not any("--gpus" in flag for flag in flags))


@pytest.mark.parametrize("wrong", ["3", "8"])
def test_gpus_that_cannot_be_shared_out(stubs, wrong):
    result = stubs.run(*arguments(stubs, f"--processes={wrong}"))
    assert result.returncode == 2
    assert f"--processes={wrong} does not divide 4 GPUs" in result.stderr
    assert trainings(stubs) == []


@pytest.mark.parametrize(
    "flags", [["--gpus=4"], ["--processes=1", "--gpus=4"], ["--processes=gpus", "--gpus=1"]]
)
def test_one_process_cannot_be_given_a_number_of_gpus(stubs, flags):
    result = stubs.run(*arguments(stubs, *flags))
    assert_refused(result, flags[-1], "several --processes", "CUDA_VISIBLE_DEVICES=0,1")
    assert stubs.calls() == []


def test_the_only_gpu_of_a_machine(stubs):
    stubs.add("nvidia-smi", "echo GPU 0")
    assert run(stubs, "--processes=gpus", statuses=[0]).returncode == 0
    assert trainings(stubs) == [["python", "-m", "owl_jax.train", *TRAINING]]


def test_no_gpus(stubs):
    stubs.add("nvidia-smi", "exit 9")
    result = stubs.run(*arguments(stubs, "--processes=gpus"))
    assert result.returncode == 1
    assert "nvidia-smi finds no GPUs" in result.stderr


@pytest.mark.parametrize("status", [1, 2, 74, 134])
def test_any_other_status_is_final(stubs, status):
    assert run(stubs, statuses=[status]).returncode == status
    assert len(trainings(stubs)) == 1


def test_a_preempted_training_is_started_again(stubs):
    result = run(stubs, statuses=[75, 75, 0])
    assert result.returncode == 0
    assert trainings(stubs) == [["python", "-m", "owl_jax.train", *TRAINING]] * 3
    assert result.stderr.count("starting again") == 2


def test_not_for_ever(stubs):
    result = run(stubs, "--max-quick-ends=3", statuses=[75] * 9)
    assert result.returncode == 75
    assert len(trainings(stubs)) == 3
    assert "gave up: the run ended 3 times in a row" in result.stderr
    stubs.forget()
    assert run(stubs, "--max-quick-ends=3", "--quick-seconds=0", statuses=[75] * 8 + [1])
    assert len(trainings(stubs)) == 9  # none of them was quick


def test_several_processes_are_started_again_together(stubs):
    result = run(stubs, "--processes=2", statuses=[75, 134, 0, 0])
    assert result.returncode == 0, result.stderr
    assert len(trainings(stubs)) == 4
    assert run(stubs, "--processes=2", statuses=[134, 1]).returncode == 1


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_lets_the_training_save_and_ends_it(stubs, sent, processes):
    (stubs.folder / "long").touch()
    process = stubs.start(*arguments(stubs, f"--processes={processes}"))
    wait_until(lambda: len([*stubs.folder.glob("started-*")]) == processes, process)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 75, stderr
    logs = [path.read_text() for path in (stubs.folder / "logs").glob("*.log")]
    assert sum(text.count("saved") for text in [stdout, *logs]) == processes
    assert len(trainings(stubs)) == processes


@pytest.mark.parametrize("flags", [[], ["--processes=2", "--gpus=4"]])
def test_what_dry_run_prints_does_the_same(stubs, flags):
    printed = stubs.run(*arguments(stubs, "--dry-run", *flags)).stdout
    run(stubs, *flags, statuses=[0, 0])
    expected = stubs.calls()
    (stubs.folder / "statuses").write_text("0\n0\n")
    stubs.replay(printed + "wait\n")
    assert sorted(stubs.calls()) == sorted(expected)


def test_dry_run_supposes_eight_gpus(stubs):
    printed = stubs.run(*arguments(stubs, "--dry-run", "--processes=gpus")).stdout
    assert printed.splitlines()[:2] == ["nvidia-smi --list-gpus", "# assuming that it lists 8"]
    assert printed.count("--num_processes=8") == 8


def test_a_port_that_there_is_not(stubs):
    assert_refused(stubs.run(*arguments(stubs, "--port=65536")), "--port=65536", "65535")


def test_nothing_is_installed(stubs):
    repository = stubs.folder / "owl_jax"
    shutil.copytree(LAUNCH, repository / "launch")
    config = repository / "stage.py"
    config.touch()
    result = stubs.run(repository / "launch" / "gpus.sh", "--", f"--config={config}", "--workdir=w")
    install = "python3 -m venv .venv && .venv/bin/pip install --editable '.[gpu]'"
    assert_refused(
        result, "--python=.venv/bin/python does not exist", f"in {repository}: {install}"
    )
    assert install in (REPOSITORY / "docs" / "launch" / "gpus.md").read_text()
