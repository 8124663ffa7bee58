import pytest
from stubs import LAUNCH, REPOSITORY, TRAINING, Stubs, assert_refused

# The part that sbatch plays: what `launch/slurm.sh train` submits is run as Slurm would, a copy of
# the script in the repository, once and again for each requeueing.
SBATCH = r"""
while [[ $1 == --* ]]; do shift; done
cp "$1" "$HOME/copy"
export SLURM_JOB_ID=12
while true; do
    rm -f "$HOME/requeued"
    status=0
    bash "$HOME/copy" "${@:2}" || status=$?
    [[ -e $HOME/requeued ]] || break
done
exit "$status"
"""
SRUN = r"""
echo "XLA_FLAGS=$XLA_FLAGS"
status=$(head -n 1 "$HOME/statuses") && sed -i 1d "$HOME/statuses"
exit "$status"
"""


@pytest.fixture
def stubs(tmp_path):
    stubs = Stubs(tmp_path / "stubs")
    stubs.add("python", "echo --xla_gpu_flag=true")
    stubs.add("sbatch", SBATCH)
    stubs.add("srun", SRUN)
    stubs.add("scontrol", 'touch "$HOME/requeued"')
    for name in ("squeue", "scancel"):
        stubs.add(name)
    return stubs


def arguments(stubs, *flags):
    logs = f"--logs={stubs.folder}/logs"
    places = ["--nodes=2", "--gpus=8", "--python=python", logs]
    return ["slurm.sh", "train", *places, *flags, "--", *TRAINING]


def run(stubs, *flags, statuses):
    (stubs.folder / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    return stubs.run(*arguments(stubs, *flags))


def test_what_is_submitted(stubs):
    flags = ["--time=1-00:00:00", "--name=owls", "--sbatch=--partition=h100", "--sbatch=--qos=a b"]
    result = run(stubs, *flags, statuses=[0])
    assert result.returncode == 0, result.stderr
    logs = stubs.folder / "logs"
    assert logs.is_dir()
    assert stubs.calls("sbatch") == [
        [
            *("sbatch", "--job-name=owls", "--nodes=2", "--ntasks-per-node=8"),
            *("--gpus-per-node=8", "--gpu-bind=none", f"--output={logs}/owls-%j.log"),
            *("--time=1-00:00:00", "--partition=h100", "--qos=a b"),
            *("launch/slurm_job.sh", "python", f"{logs}/owls", "300", "5", *TRAINING),
        ]
    ]


def test_the_job_runs_the_training_on_each_gpu(stubs):
    result = run(stubs, statuses=[0])
    assert stubs.calls("srun") == [
        [
            *("srun", "--kill-on-bad-exit=0", "--wait=600"),
            *("python", "-m", "owl_jax.train", "--multihost", *TRAINING),
        ]
    ]
    assert "XLA_FLAGS=--xla_gpu_flag=true\n" in result.stdout
    assert stubs.calls("scontrol") == []


def test_the_script_asks_slurm_for_what_a_resume_needs():
    lines = (LAUNCH / "slurm_job.sh").read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    asked = {line for line in lines[:first_command] if line.startswith("#SBATCH")}
    assert asked == {"#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=TERM@300"}


def test_a_preempted_job_is_requeued(stubs):
    result = run(stubs, statuses=[75, 75, 0])
    assert result.returncode == 0, result.stderr
    assert stubs.calls("scontrol") == [["scontrol", "requeue", "12"]] * 2
    first, *others = stubs.calls("srun")
    assert others == [first] * 2


@pytest.mark.parametrize("status", [1, 2, 134, 143])
def test_any_other_status_is_the_jobs(stubs, status):
    assert run(stubs, statuses=[status]).returncode == status
    assert stubs.calls("scontrol") == []


def test_quick_ends_are_counted_over_requeueings(stubs):
    result = run(stubs, "--max-quick-ends=3", statuses=[75] * 9)
    assert result.returncode == 75
    assert len(stubs.calls("srun")) == 3
    assert "gave up: the run ended 3 times in a row" in result.stderr
    stubs.forget()
    assert run(stubs, "--quick-seconds=0", statuses=[75] * 8 + [1]).returncode == 1
    assert len(stubs.calls("srun")) == 9


def test_slurm_may_have_requeued_it_itself(stubs):
    stubs.add("scontrol", "echo Job is pending execution >&2; exit 1")
    result = run(stubs, statuses=[75])
    assert result.returncode == 75
    assert "pending" in result.stderr


def test_a_stopped_job_is_not_requeued(stubs):
    logs = stubs.folder / "logs"
    logs.mkdir()
    assert stubs.run("slurm.sh", "stop", "--job=12", f"--logs={logs}").returncode == 0
    assert stubs.calls() == [["scancel", "--signal=TERM", "12"]]
    result = run(stubs, statuses=[75, 0])
    assert result.returncode == 75
    assert "stopped after saving" in result.stderr
    assert stubs.calls("scontrol") == []
    assert run(stubs, statuses=[75, 0]).returncode == 0  # the next one is


def test_status_and_deletion(stubs):
    assert stubs.run("slurm.sh", "status", "--job=12").returncode == 0
    assert stubs.run("slurm.sh", "delete", "--job=12").returncode == 0
    assert stubs.calls() == [["squeue", "--jobs=12"], ["scancel", "12"]]


def test_logs_are_followed(stubs):
    stubs.add("tail", "exit 0")
    stubs.run("slurm.sh", "logs", "--job=12", "--name=owls", "--logs=/l")
    expected = ["tail", "--lines=+1", "--follow=name", "--retry", "/l/owls-12.log"]
    assert stubs.calls() == [expected]


@pytest.mark.parametrize("action", ["train", "stop", "status", "delete"])
def test_what_dry_run_prints_does_the_same(stubs, action):
    words = ["slurm.sh", action, f"--logs={stubs.folder}", "--job=12"]
    if action == "train":
        words = arguments(stubs)
    (stubs.folder / "statuses").write_text("0\n0\n")
    assert stubs.run(*words).returncode == 0
    expected = stubs.calls()
    printed = stubs.run(*words[:2], "--dry-run", *words[2:]).stdout
    assert stubs.replay(printed) == expected
    assert printed.splitlines()[0] == f"cd {REPOSITORY}"


def test_flags_of_sbatch(stubs):
    for flag in ("--partition=h100", "--qos=a b", "--exclusive"):
        result = stubs.run(*arguments(stubs, flag))
        assert_refused(result, "unknown argument", f"--sbatch={flag}")
        assert "comes after --" not in result.stderr
