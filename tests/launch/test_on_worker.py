import shutil

import pytest
from stubs import LAUNCH, TRAINING, Stubs, assert_refused, wait_until

# As a training run it continues until it gets SIGTERM.
PYTHON = r"""
if [[ $* == *xla_flags* ]]; then echo --xla_tpu_flag=true; exit; fi
trap 'echo saved; kill $!; exit 75' TERM
sleep 60 &
echo "started with $LIBTPU_INIT_ARGS"
wait
"""


@pytest.fixture
def stubs(tmp_path):
    stubs = Stubs(tmp_path / "stubs")
    stubs.add("python3")
    shutil.copytree(LAUNCH, stubs.folder / "owl_jax" / "launch")
    stubs.add("python", PYTHON, path=stubs.folder / "owl_jax" / ".venv" / "bin" / "python")
    return stubs


def on_worker(stubs, *words, **variables):
    return stubs.run(stubs.folder / "owl_jax" / "launch" / "on_worker.sh", *words, **variables)


def state(stubs):
    return on_worker(stubs, "state").stdout.rpartition(": ")[2].strip()


def log(stubs):
    path = stubs.folder / "owl_jax" / "run" / "train.log"
    return path.read_text() if path.exists() else ""


def start(stubs, **variables):
    result = on_worker(stubs, "start", "v6e", *TRAINING, **variables)
    assert result.returncode == 0, result.stderr
    wait_until(lambda: "started with" in log(stubs))


def test_a_training_from_start_to_stop(stubs):
    assert state(stubs) == "none"
    start(stubs)
    assert state(stubs) == "running"
    assert stubs.calls("python") == [
        ["python", "-m", "owl_jax.parallel.xla_flags", "--chip=v6e"],
        ["python", "-m", "owl_jax.train", "--multihost", *TRAINING],
    ]
    assert on_worker(stubs, "stop").returncode == 0
    assert state(stubs) == "stopped"
    assert log(stubs) == "started with --xla_tpu_flag=true\nsaved\n"
    assert (stubs.folder / "owl_jax" / "run" / "status").read_text() == "75\n"


def test_it_is_not_started_twice(stubs):
    start(stubs)
    again = on_worker(stubs, "start", "v6e", "--other")
    assert again.returncode == 0
    assert again.stdout == "a run is in progress here already\n"
    assert len(stubs.calls("python")) == 2
    on_worker(stubs, "stop")
    stubs.forget()
    start(stubs)
    assert state(stubs) == "running"  # not what an earlier one has left
    on_worker(stubs, "stop")


def test_flags_of_the_environment_come_last(stubs):
    start(stubs, LIBTPU_INIT_ARGS="--of_mine=1")
    assert "started with --xla_tpu_flag=true --of_mine=1\n" in log(stubs)
    on_worker(stubs, "stop")


def test_stopping_it_before_it_has_begun(stubs):
    """Its process is not there yet, and the one before is no longer its own."""
    start(stubs)
    on_worker(stubs, "stop")
    path = stubs.folder / "owl_jax" / ".venv" / "bin" / "python"
    slow = PYTHON.replace("echo --xla", "sleep 2; echo --xla", 1)
    stubs.add("python", slow, path=path)
    stubs.forget()
    assert on_worker(stubs, "start", "v6e", *TRAINING).returncode == 0
    wait_until(lambda: stubs.calls("python"))
    assert on_worker(stubs, "stop").returncode == 0
    assert len(stubs.calls("python")) == 2
    assert state(stubs) == "stopped"


def test_no_training_without_its_flags(stubs):
    path = stubs.folder / "owl_jax" / ".venv" / "bin" / "python"
    stubs.add("python", "echo no jax here >&2; exit 3", path=path)
    assert on_worker(stubs, "start", "v6e", *TRAINING).returncode == 0
    wait_until(lambda: state(stubs) == "1")
    assert len(stubs.calls("python")) == 1
    assert "no jax here" in log(stubs)


def test_to_stop_or_follow_what_does_not_run(stubs):
    assert on_worker(stubs, "stop").returncode == 0
    assert on_worker(stubs, "follow").returncode == 0
    assert state(stubs) == "none"


def test_python_is_installed_once(stubs):
    assert on_worker(stubs, "install").returncode == 0
    (call,) = stubs.calls("python3")
    assert call[:4] == ["python3", "-m", "uv", "pip"]


def test_a_failing_installation_is_told(stubs):
    stubs.add("python3", "exit 5")
    assert on_worker(stubs, "install").returncode == 5


def mounting(stubs, mounted, installed):
    stubs.add("mountpoint", f"exit {int(not mounted)}")
    stubs.add("sudo", 'while read -r line; do echo "$line" >>"$HOME/written"; done; exit 0')
    for name, part in {"curl": "echo key", "lsb_release": "echo jammy", "id": "echo me"}.items():
        stubs.add(name, part)
    if installed:
        stubs.add("gcsfuse")
    result = on_worker(stubs, "mount", "nest")
    assert result.returncode == (0 if installed else 127)  # the stubs install nothing
    return [call for call in stubs.calls() if call[0] in ("sudo", "gcsfuse")]


def test_a_bucket_is_mounted_once(stubs):
    assert mounting(stubs, mounted=True, installed=True) == []


def test_a_bucket_is_mounted(stubs):
    assert mounting(stubs, mounted=False, installed=True) == [
        ["sudo", "install", "--directory", "--owner=me", "/bucket"],
        ["gcsfuse", "--implicit-dirs", "nest", "/bucket"],
    ]


def test_what_mounts_a_bucket_is_installed(stubs):
    key = "/usr/share/keyrings/cloud.google.asc"
    assert mounting(stubs, mounted=False, installed=False) == [
        ["sudo", "tee", key],
        ["sudo", "tee", "/etc/apt/sources.list.d/gcsfuse.list"],
        ["sudo", "apt-get", "update", "--quiet", "--quiet"],
        ["sudo", "apt-get", "install", "--quiet", "--quiet", "--yes", "gcsfuse"],
        ["sudo", "install", "--directory", "--owner=me", "/bucket"],
    ]
    assert (stubs.folder / "written").read_text().splitlines() == [
        "key",
        f"deb [signed-by={key}] https://packages.cloud.google.com/apt gcsfuse-jammy main",
    ]


@pytest.mark.parametrize("words", [[], ["trian"]])
def test_wrong_actions(stubs, words):
    assert_refused(on_worker(stubs, *words), "install, mount, start, follow, state or stop")
