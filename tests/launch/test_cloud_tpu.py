import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from stubs import REPOSITORY, TRAINING, Stubs, assert_refused, wait_until

SLICE = ["--name=owl", "--zone=us-west4-a"]
FOR_TRAINING = ["train", *SLICE, "--type=v5litepod-16", "--poll-seconds=2"]
VM = ["gcloud", "compute", "tpus", "tpu-vm"]
QUEUE = ["gcloud", "compute", "tpus", "queued-resources"]

# A cloud in a folder: what `node` and `request` hold is the state of the slice and of the request
# for it; `hosts` are the homes of its two hosts, on which ssh runs commands as a login shell does.
GCLOUD = r"""
cd "$HOME"
for word; do
    case $word in
        --worker=all) workers="0 1" ;;
        --worker=*) workers=${word#*=} ;;
        --command=*) command=${word#*=} ;;
        *:owl_jax.tar.gz) archive=$5 ;;
    esac
done
make() { echo READY >node && mkdir -p hosts/0 hosts/1; }
case "$3 $4" in
    "tpu-vm list") if [[ -e fails ]]; then rm fails && exit 1; fi; cat node 2>/dev/null || true ;;
    "queued-resources list") cat request 2>/dev/null || true ;;
    "queued-resources create")
        if [[ -s queue ]]; then mv queue request; else echo ACTIVE >request && make; fi ;;
    "tpu-vm create") make ;;
    *delete) rm -rf node request hosts ;;
    "tpu-vm scp") for i in $workers; do cp "$archive" "hosts/$i/owl_jax.tar.gz" || exit; done ;;
    "tpu-vm ssh")
        [[ $(cat node) == READY ]] || { echo "cannot connect" >&2 && exit 1; }
        result=0
        for i in $workers; do
            (cd "hosts/$i" && HOME=$PWD HOST=$i CLOUD=$OLDPWD bash -c "$command") || result=$?
        done
        exit "$result" ;;
esac
"""

# A host's own Python installs uv, and with it the one for the run.
PYTHON3 = r"""
if [[ $* == "-m uv venv"* ]]; then mkdir -p .venv/bin && cp "$CLOUD/training" .venv/bin/python; fi
"""

# As a training run it ends with the next status that the file statuses-N has for its host, or its
# machine vanishes.
PYTHON = r"""
if [[ $* == *xla_flags* ]]; then echo --xla_tpu_flag=true; exit; fi
echo "host $HOST: LIBTPU_INIT_ARGS=$LIBTPU_INIT_ARGS, in $PWD"
next=$(head -n 1 "$CLOUD/statuses-$HOST") && sed -i 1d "$CLOUD/statuses-$HOST"
case $next in
    vanish) rm -rf "$CLOUD/hosts" && echo SUSPENDED >"$CLOUD/request" && rm "$CLOUD/node" ;;
    preempt) echo PREEMPTED >"$CLOUD/node" ;;
    long)
        trap 'echo saved; kill $!; exit 75' TERM
        sleep 60 &
        touch "$CLOUD/started-$HOST"
        wait ;;
    *) exit "$next" ;;
esac
"""


@pytest.fixture
def stubs(tmp_path):
    stubs = Stubs(tmp_path / "stubs")
    stubs.add("gcloud", GCLOUD)
    stubs.add("python3", PYTHON3)
    stubs.add("training", PYTHON, path=stubs.folder / "training")
    # The seconds between two looks at a slice are spared.
    stubs.add("sleep", f'[[ $1 == 2 ]] || exec {shutil.which("sleep")} "$@"')
    return stubs


def prepare(stubs, *statuses):
    """What the two hosts' runs end with, a pair for each start."""
    for host in (0, 1):
        ends = "".join(f"{pair[host]}\n" for pair in statuses)
        (stubs.folder / f"statuses-{host}").write_text(ends)


def train(stubs, *flags, statuses):
    prepare(stubs, *statuses)
    return stubs.run("cloud_tpu.sh", *FOR_TRAINING, *flags, "--", *TRAINING)


def actions(stubs):
    """The calls of gcloud in a few words, without the looks at states."""
    short = []
    for call in stubs.calls("gcloud"):
        words = " ".join(call[3:5])
        if words == "tpu-vm ssh":
            worker = next(word for word in call if word.startswith("--worker=")).split("=")[1]
            words = f"{worker}: {re.findall('install|start|follow|state|stop', call[-1])[-1]}"
        if not words.endswith((" list", "state")):
            short.append(words)
    return short


def trainings(stubs):
    return [call for call in stubs.calls("training") if call[2] == "owl_jax.train"]


START = ["tpu-vm scp", "all: install", "all: start", "0: follow"]


def test_from_nothing_to_a_trained_model(stubs):
    result = train(stubs, "--spot", statuses=[(0, 0)])
    assert result.returncode == 0, result.stderr
    assert actions(stubs) == ["queued-resources create", *START]
    assert trainings(stubs) == [["training", "-m", "owl_jax.train", "--multihost", *TRAINING]] * 2
    # What host 0 prints is printed here; each host has its own log.
    home = stubs.folder / "hosts" / "0" / "owl_jax"
    line = f"host 0: LIBTPU_INIT_ARGS=--xla_tpu_flag=true, in {home}\n"
    assert line in result.stdout
    assert "host 1:" not in result.stdout
    assert (home / "run" / "train.log").read_text() == line
    ours = (REPOSITORY / "owl_jax" / "train.py").read_bytes()
    assert (home / "owl_jax" / "train.py").read_bytes() == ours
    # And the costs are reported.
    assert "still exists and costs" in result.stderr
    assert "cloud_tpu.sh delete --name=owl --zone=us-west4-a\n" in result.stderr


@pytest.mark.parametrize(
    ("type", "runtime", "chip"),
    [
        ("v4-32", "tpu-ubuntu2204-base", "v4"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite", "v5e"),
        ("v5p-32", "v2-alpha-tpuv5", "v5p"),
        ("v6e-16", "v2-alpha-tpuv6e", "v6e"),
    ],
)
def test_the_image_and_the_flags_of_each_type(stubs, type, runtime, chip):
    flags = [f"--type={type}", "--project=birds", "--spot", "--valid-for=6h"]
    assert train(stubs, *flags, statuses=[(0, 0)]).returncode == 0
    assert stubs.calls("gcloud")[2] == [
        *(*QUEUE, "create", "owl", "--node-id=owl", "--zone=us-west4-a", "--project=birds"),
        *(f"--accelerator-type={type}", f"--runtime-version={runtime}", "--spot"),
        "--valid-until-duration=6h",
    ]
    asked = ["training", "-m", "owl_jax.parallel.xla_flags", f"--chip={chip}"]
    assert stubs.calls("training").count(asked) == 2


def test_without_a_queue(stubs):
    flags = ["--no-queue", "--reserved", "--runtime=v9"]
    assert train(stubs, *flags, "--delete-when-done", statuses=[(0, 0)]).returncode == 0
    create = [*VM, "create", "owl", "--zone=us-west4-a", "--accelerator-type=v5litepod-16"]
    assert [*create, "--version=v9", "--reserved"] in stubs.calls("gcloud")
    assert stubs.calls("gcloud")[-1] == [*VM, "delete", "owl", "--zone=us-west4-a", "--quiet"]
    assert not any("queued-resources" in call for call in stubs.calls("gcloud"))


def test_each_command_on_the_hosts(stubs):
    train(stubs, "--prepare=touch 'my bucket'", statuses=[(0, 0)])
    archive = f"{stubs.folder}/owl_jax-owl.tar.gz"
    assert stubs.calls("gcloud")[-5] == [
        *(*VM, "scp", archive, "owl:owl_jax.tar.gz", "--zone=us-west4-a", "--worker=all")
    ]
    install, start, follow, state = (call[4:] for call in stubs.calls("gcloud")[-4:])
    assert install[:4] == ["ssh", "owl", "--zone=us-west4-a", "--worker=all"]
    assert install[4].startswith("--command=mkdir -p owl_jax && cd owl_jax && rm -rf owl_jax ")
    assert install[4].endswith("on_worker.sh install && touch 'my bucket'")
    assert start[3:] == ["--worker=all", start[4]]
    assert start[4].startswith("--command=bash owl_jax/launch/on_worker.sh start v5e --config=")
    assert follow[3:] == ["--worker=0", "--command=bash owl_jax/launch/on_worker.sh follow"]
    assert state[3] == "--worker=all"
    assert stubs.calls("python3")[:3] == [
        ["python3", "-m", "pip", "install", "--quiet", "--user", "uv"],
        ["python3", "-m", "uv", "venv", "--quiet", "--python=3.12", ".venv"],
        [
            *("python3", "-m", "uv", "pip", "install", "--quiet", "--python=.venv/bin/python"),
            *("--editable", ".[tpu]"),
        ],
    ]


def test_a_bucket_is_mounted_on_each_host_before_the_preparation(stubs):
    stubs.add("mountpoint")
    train(stubs, "--bucket=nest", "--prepare=touch prepared", statuses=[(0, 0)])
    (install,) = [call[-1] for call in stubs.calls("gcloud") if "install" in call[-1]]
    assert install.endswith(
        "on_worker.sh install && bash launch/on_worker.sh mount nest && touch prepared"
    )
    assert stubs.calls("mountpoint") == [["mountpoint", "--quiet", "/bucket"]] * 2
    assert len(trainings(stubs)) == 2


def test_a_failing_preparation_starts_nothing(stubs):
    result = train(stubs, "--prepare=exit 3", statuses=[(0, 0)])
    assert result.returncode == 1
    assert "could not be started on every host of owl" in result.stderr
    assert trainings(stubs) == []


def test_what_lies_beside_the_code_stays(stubs):
    flag = "--prepare=mkdir -p weights owl_jax && touch weights/mine owl_jax/old.py"
    assert train(stubs, flag, statuses=[(75, 75), (0, 0)]).returncode == 0
    assert train(stubs, statuses=[(0, 0)]).returncode == 0
    home = stubs.folder / "hosts" / "0" / "owl_jax"
    assert (home / "weights" / "mine").exists()
    assert not (home / "owl_jax" / "old.py").exists()


@pytest.mark.parametrize(
    ("statuses", "expected"), [((1, 1), 1), ((1, 134), 1), ((134, 2), 2), ((0, 139), 139)]
)
def test_any_other_status_is_final(stubs, statuses, expected):
    result = train(stubs, "--delete-when-done", statuses=[statuses])
    assert result.returncode == expected
    assert len(trainings(stubs)) == 2
    assert "queued-resources delete" not in actions(stubs)  # its log may be wanted
    assert "still exists and costs" in result.stderr


def test_a_preempted_training_is_started_again_on_the_same_slice(stubs):
    result = train(stubs, statuses=[(75, 75), (75, 134), (0, 0)])
    assert result.returncode == 0, result.stderr
    assert actions(stubs) == ["queued-resources create", *START * 3]
    assert len({tuple(call) for call in trainings(stubs)}) == 1


@pytest.mark.parametrize("ends", [("vanish", 134), (134, "preempt")])
def test_a_slice_that_vanished_is_made_again(stubs, ends):
    result = train(stubs, "--spot", "--delete-when-done", statuses=[ends, (0, 0)])
    assert result.returncode == 0, result.stderr
    again = ["queued-resources delete", "queued-resources create"]
    assert actions(stubs) == [
        "queued-resources create",
        *(*START, *again, *START),
        "queued-resources delete",
    ]
    delete = [*QUEUE, "delete", "owl", "--zone=us-west4-a", "--force", "--quiet"]
    assert stubs.calls("gcloud").count(delete) == 2
    creates = [call for call in stubs.calls("gcloud") if call[4] == "create"]
    assert creates[0] == creates[1]


def test_a_rebooted_host_is_no_failure_of_the_training(stubs):
    prepare(stubs, ("long", "long"), (0, 0))
    process = stubs.start("cloud_tpu.sh", *FOR_TRAINING, "--", *TRAINING)
    hosts = [stubs.folder / "hosts" / str(i) / "owl_jax" / "run" for i in (0, 1)]
    wait_until(lambda: all((stubs.folder / f"started-{i}").exists() for i in (0, 1)), process)
    for run in hosts:
        pid = int((run / "pid").read_text())
        # The shell that waits for the run, as a reboot ends both: no status is written.
        holder = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        for victim in (holder, pid):
            os.kill(victim, signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "preempted after" in stderr
    assert len(trainings(stubs)) == 4


def test_not_for_ever(stubs):
    result = train(stubs, "--max-quick-ends=2", statuses=[(75, 75)] * 5)
    assert result.returncode == 75
    assert len(trainings(stubs)) == 4
    assert "gave up: the run ended 2 times in a row" in result.stderr


def test_a_slice_is_awaited(stubs):
    # In the queue, then provisioned, then there, with a call that fails between.
    prepare(stubs, (0, 0))
    (stubs.folder / "queue").write_text("WAITING_FOR_RESOURCES\n")
    process = stubs.start("cloud_tpu.sh", *FOR_TRAINING, "--", *TRAINING)
    wait_until(lambda: len(stubs.calls("gcloud")) > 8, process)
    (stubs.folder / "fails").touch()
    wait_until(lambda: not (stubs.folder / "fails").exists(), process)
    assert actions(stubs) == ["queued-resources create"]
    for host in (0, 1):
        (stubs.folder / "hosts" / str(host)).mkdir(parents=True)
    (stubs.folder / "request").write_text("ACTIVE\n")
    (stubs.folder / "node").write_text("CREATING\n")
    (stubs.folder / "node").write_text("READY\n")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "owl is coming; looking again in 2 seconds" in stderr
    assert "owl is unknown" in stderr
    assert actions(stubs) == ["queued-resources create", *START]


def test_a_request_that_failed_is_not_repeated(stubs):
    (stubs.folder / "queue").write_text("FAILED\n")
    result = train(stubs, statuses=[])
    assert result.returncode == 1
    assert "the request for owl has failed" in result.stderr
    assert actions(stubs) == ["queued-resources create"]


def test_a_refused_request_ends_with_gclouds_status(stubs):
    stubs.add("gcloud", '[[ "$4" == create ]] && exit 4; exit 0')
    assert train(stubs, statuses=[]).returncode == 4


@pytest.mark.parametrize("state", ["READY", "STOPPED"])
def test_create_uses_what_is_there(stubs, state):
    (stubs.folder / "node").write_text(f"{state}\n")
    result = stubs.run("cloud_tpu.sh", "create", *SLICE, "--type=v5litepod-16", "--poll-seconds=2")
    assert result.returncode == 0, result.stderr
    renewed = ["queued-resources delete", "queued-resources create"]
    assert actions(stubs) == ([] if state == "READY" else renewed)


def start_long(stubs):
    prepare(stubs, ("long", "long"), (0, 0))
    process = stubs.start("cloud_tpu.sh", *FOR_TRAINING, "--", *TRAINING)
    wait_until(lambda: all((stubs.folder / f"started-{i}").exists() for i in (0, 1)), process)
    wait_until(lambda: "0: follow" in actions(stubs), process)
    return process


def stop(stubs):
    assert stubs.run("cloud_tpu.sh", "stop", *SLICE).returncode == 0


def test_stop_saves_and_ends_what_train_follows(stubs):
    process = start_long(stubs)
    stop(stubs)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "saved\n" in stdout
    assert "stopped after saving" in stderr
    assert len(trainings(stubs)) == 2
    # The same command continues from there.
    assert stubs.run("cloud_tpu.sh", *FOR_TRAINING, "--", *TRAINING).returncode == 0
    assert len(trainings(stubs)) == 4


def test_an_interrupted_train_is_joined_again(stubs):
    process = start_long(stubs)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to what train has started, too
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted here, but not on owl" in stderr
    stubs.forget()
    joined = stubs.start("cloud_tpu.sh", *FOR_TRAINING, "--", *TRAINING)
    wait_until(lambda: "0: follow" in actions(stubs), joined)
    stop(stubs)
    stdout, stderr = joined.communicate(timeout=60)
    assert "joining the run on owl" in stderr
    assert "saved\n" in stdout
    assert actions(stubs)[:1] == ["0: follow"]  # the running code was not replaced
    assert trainings(stubs) == []


def test_status(stubs):
    train(stubs, statuses=[(0, 0)])
    result = stubs.run("cloud_tpu.sh", "status", *SLICE)
    assert result.returncode == 0
    assert re.search(r"ACTIVE\nREADY\nowl_jax on \S+: 0\nowl_jax on \S+: 0\n", result.stdout)


@pytest.mark.parametrize("key", ["config", "workdir"])
def test_a_bucket_that_is_not_mounted(stubs, key):
    training = {"config": "configs/stage2.py", "workdir": "runs"} | {key: "/bucket/x"}
    given = [f"--{name}={value}" for name, value in training.items()]
    assert_refused(
        stubs.run("cloud_tpu.sh", *FOR_TRAINING, "--", *given),
        "/bucket exists only with --bucket=BUCKET",
    )
    for flag in ("--bucket=nest", "--prepare=mount /bucket"):
        words = [*FOR_TRAINING, flag, "--dry-run", "--", *given]
        assert stubs.run("cloud_tpu.sh", *words).returncode == 0


@pytest.mark.parametrize("flags", [[], ["--no-queue"]])
def test_deletion(stubs, flags):
    assert stubs.run("cloud_tpu.sh", "delete", *SLICE, *flags).returncode == 0
    tool, rest = (VM, ["--quiet"]) if flags else (QUEUE, ["--force", "--quiet"])
    assert stubs.calls() == [[*tool, "delete", "owl", "--zone=us-west4-a", *rest]]


@pytest.mark.parametrize("flags", [[], ["--delete-when-done"]])
def test_what_dry_run_prints_does_the_same(stubs, flags):
    words = [*FOR_TRAINING, *flags, "--prepare=echo 'a b'", "--", *TRAINING]
    prepare(stubs, (0, 0), (0, 0))
    assert stubs.run("cloud_tpu.sh", *words).returncode == 0
    expected = stubs.calls("gcloud")
    stubs.run("cloud_tpu.sh", "delete", *SLICE)
    printed = stubs.run("cloud_tpu.sh", *words[:-7], "--dry-run", *words[-7:]).stdout
    stubs.replay(printed)
    # But for the look whether the slice has come.
    assert [call[3:5] for call in expected[2:4]] == [
        ["queued-resources", "create"],
        ["tpu-vm", "list"],
    ]
    # Deletion is a comment: pasted, it would not wait for the run's status.
    deletion = expected[-1:] if flags else []
    assert stubs.calls("gcloud") == expected[:3] + expected[4 : len(expected) - len(deletion)]
    comments = [line for line in printed.splitlines() if line.startswith("# when it has ended")]
    assert [" ".join(call) in line for call, line in zip(deletion, comments, strict=True)] == [
        True
    ] * len(deletion)


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--spot", "--reserved"], "one of them"),
        (["--valid-for=banana"], "such as 6h or 1d12h"),
        (["--valid-for=6"], "such as 6h or 1d12h"),
        (["--valid-for=h"], "such as 6h or 1d12h"),
    ],
)
def test_what_gcloud_would_refuse_later(stubs, flags, hint):
    words = ["cloud_tpu.sh", *FOR_TRAINING, *flags, "--dry-run", "--", *TRAINING]
    assert_refused(stubs.run(*words), " ".join(flags), hint)


@pytest.mark.parametrize("duration", ["6h", "1d12h", "90m"])
def test_durations(stubs, duration):
    create = ["create", *SLICE, "--type=v6e-8", "--dry-run"]
    result = stubs.run("cloud_tpu.sh", *create, f"--valid-for={duration}")
    assert f" --valid-until-duration={duration}\n" in result.stdout
