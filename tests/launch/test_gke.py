import pytest
from stubs import REPOSITORY, TRAINING, Stubs, assert_refused

WHERE = ["--cluster=owls", "--project=birds", "--zone=us-west4-a"]
FOR_TRAINING = ["train", *WHERE, "--name=owl", "--type=v5litepod-64"]
FLAGS = "--xla_tpu_flag=true"


@pytest.fixture
def stubs(tmp_path):
    stubs = Stubs(tmp_path / "stubs")
    for name in ("xpk", "gcloud", "kubectl", "pip"):
        stubs.add(name)
    stubs.add(
        "python", f'[[ $* == *xla_flags* ]] && echo {FLAGS} || echo "flags: $LIBTPU_INIT_ARGS"'
    )
    return stubs


def run(stubs, *words):
    result = stubs.run("gke.sh", *words)
    assert result.returncode == 0, result.stderr
    return result


def option(call, name):
    (value,) = [word.partition("=")[2] for word in call if word.startswith(f"{name}=")]
    return value


def test_a_cluster_with_a_bucket(stubs):
    run(stubs, "create-cluster", *WHERE, "--type=v6e-64", "--slices=2", "--spot", "--bucket=nest")
    assert stubs.calls() == [
        [
            *("xpk", "cluster", "create", *WHERE, "--tpu-type=v6e-64", "--num-slices=2"),
            *("--spot", "--enable-gcsfuse-csi-driver"),
        ],
        [
            *("xpk", "storage", "attach", "nest", *WHERE, "--type=gcsfuse", "--bucket=nest"),
            *("--mount-point=/bucket", "--auto-mount=true", "--readonly=false", "--size=1000"),
        ],
    ]


@pytest.mark.parametrize(
    ("flags", "price"), [([], "--on-demand"), (["--reservation=spring"], "--reservation=spring")]
)
def test_a_cluster_without_a_bucket(stubs, flags, price):
    run(stubs, "create-cluster", *WHERE, "--type=v4-8", *flags)
    assert stubs.calls() == [
        ["xpk", "cluster", "create", *WHERE, "--tpu-type=v4-8", "--num-slices=1", price]
    ]


@pytest.mark.parametrize("flags", [["--bucket=nest"], ["--spot"], ["--reservation=spring"]])
@pytest.mark.parametrize("action", ["train", "status", "delete-cluster"])
def test_what_only_a_new_cluster_takes(stubs, action, flags):
    words = [action, *WHERE, "--name=owl", "--type=v4-8", *flags, "--", *TRAINING]
    assert_refused(stubs.run("gke.sh", *words), *flags, "is for create-cluster", action)
    assert stubs.calls() == []


def test_a_cluster_is_spot_or_reserved(stubs):
    words = ["create-cluster", *WHERE, "--type=v4-8", "--spot", "--reservation=spring"]
    assert_refused(stubs.run("gke.sh", *words), "--spot --reservation=spring", "one of them")


def test_no_bucket_in_a_cluster_that_was_not_made(stubs):
    stubs.add("xpk", "exit 3")
    result = stubs.run("gke.sh", "create-cluster", *WHERE, "--type=v4-8", "--bucket=nest")
    assert result.returncode == 3
    assert len(stubs.calls("xpk")) == 1


def test_a_training_in_an_image_of_ones_own(stubs):
    flags = ["--slices=2", "--image=birds/owl:1", "--max-restarts=7"]
    run(stubs, *FOR_TRAINING, *flags, "--", *TRAINING)
    (call,) = stubs.calls()
    assert call[:-1] == [
        *("xpk", "workload", "create", *WHERE, "--workload=owl", "--tpu-type=v5litepod-64"),
        *("--num-slices=2", "--docker-image=birds/owl:1", "--max-restarts=7"),
        *("--restart-on-exit-codes=75", "--termination-grace-period-seconds=300"),
    ]


def in_container(stubs, command):
    """Runs a command as XPK puts it into a container: Kubernetes halves dollars, bash runs it."""
    assert "\n" not in command  # it becomes a line of YAML
    stubs.forget()
    result = stubs.run("-c", f"({command.replace('$$', '$')})")
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_an_image_may_have_configs_that_are_not_here(stubs):
    flags = ["--config=configs/mine.py", "--workdir=/bucket/w"]
    run(stubs, *FOR_TRAINING, "--image=owl", "--", *flags)
    result = stubs.run("gke.sh", *FOR_TRAINING, "--", *flags)
    assert_refused(result, "--config=configs/mine.py: no such file")


def test_the_arguments_arrive_in_the_container(stubs):
    run(stubs, *FOR_TRAINING, "--image=owl", "--", *TRAINING)
    command = option(stubs.calls()[0], "--command")
    assert command.count("$") == 2 * command.replace("$$", "$").count("$")
    assert in_container(stubs, command) == f"flags: {FLAGS}\n"
    assert stubs.calls() == [
        ["python", "-m", "owl_jax.parallel.xla_flags", "--chip=v5e"],
        ["python", "-m", "owl_jax.train", "--multihost", *TRAINING],
    ]


def test_no_training_without_its_flags(stubs):
    run(stubs, *FOR_TRAINING, "--image=owl", "--", *TRAINING)
    command = option(stubs.calls()[0], "--command").replace("$$", "$")
    stubs.forget()
    stubs.add("python", "exit 3")
    assert stubs.run("-c", f"({command})").returncode == 3
    assert len(stubs.calls("python")) == 1


def test_a_preparation_comes_first(stubs):
    run(stubs, *FOR_TRAINING, "--prepare=pip --version", "--image=owl", "--", *TRAINING)
    in_container(stubs, option(stubs.calls()[0], "--command"))
    assert [call[0] for call in stubs.calls()] == ["pip", "python", "python"]
    stubs.forget()
    run(stubs, *FOR_TRAINING, "--prepare=exit 3", "--", *TRAINING)
    command = option(stubs.calls()[0], "--command").replace("$$", "$")
    stubs.forget()
    assert stubs.run("-c", f"({command})").returncode == 3
    assert [call[0] for call in stubs.calls()] == ["pip"]


@pytest.mark.parametrize(
    ("type", "chip"), [("v4-8", "v4"), ("v5litepod-8", "v5e"), ("v5p-8", "v5p"), ("v6e-8", "v6e")]
)
def test_each_type_gets_the_flags_of_its_chip(stubs, type, chip):
    run(stubs, *FOR_TRAINING, f"--type={type}", "--image=owl", "--", *TRAINING)
    assert f"--chip={chip})" in option(stubs.calls()[0], "--command")


def test_without_an_image_the_code_is_added_to_pythons(stubs):
    run(stubs, *FOR_TRAINING, "--", *TRAINING)
    (call,) = stubs.calls()
    assert option(call, "--base-docker-image") == "python:3.12"
    folder = stubs.folder / "owl_jax-owl"
    assert option(call, "--script-dir") == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["owl_jax", "configs", "launch", "setup.py", "pyproject.toml", "README.md"]
    )
    ours = (REPOSITORY / "owl_jax" / "train.py").read_bytes()
    assert (folder / "owl_jax" / "train.py").read_bytes() == ours
    in_container(stubs, option(call, "--command"))
    assert stubs.calls()[0] == ["pip", "install", "--quiet", "--editable", ".[tpu]"]
    assert stubs.calls()[-1] == ["python", "-m", "owl_jax.train", "--multihost", *TRAINING]


def test_the_code_of_an_earlier_training_is_not_added(stubs):
    (stubs.folder / "owl_jax-owl").mkdir()
    (stubs.folder / "owl_jax-owl" / "old").touch()
    run(stubs, *FOR_TRAINING, "--", *TRAINING)
    assert not (stubs.folder / "owl_jax-owl" / "old").exists()


def test_status_and_logs(stubs):
    run(stubs, "status", *WHERE, "--name=owl")
    run(stubs, "logs", *WHERE, "--name=owl")
    job = "jobset.sigs.k8s.io"
    assert stubs.calls() == [
        ["xpk", "workload", "list", *WHERE, "--filter-by-job=owl"],
        [
            *("gcloud", "container", "clusters", "get-credentials", "owls"),
            *("--location=us-west4", "--project=birds"),
        ],
        [
            *("kubectl", "logs", "--follow", "--tail=-1", "--container=jax-tpu"),
            f"--selector={job}/jobset-name=owl,{job}/job-index=0,"
            "batch.kubernetes.io/job-completion-index=0",
        ],
    ]


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (125, 1), (1, 1)])
def test_waiting_for_the_end(stubs, status, expected):
    stubs.add("xpk", f"exit {status}")
    assert stubs.run("gke.sh", "wait", *WHERE, "--name=owl").returncode == expected
    expected_call = ["xpk", "workload", "list", *WHERE, "--wait-for-job-completion=owl"]
    assert stubs.calls() == [expected_call]


def test_deletion(stubs):
    run(stubs, "delete", *WHERE, "--name=owl")
    run(stubs, "delete-cluster", *WHERE)
    assert stubs.calls() == [
        ["xpk", "workload", "delete", *WHERE, "--workload=owl", "--force"],
        ["xpk", "cluster", "delete", *WHERE, "--force"],
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["create-cluster", *WHERE, "--type=v6e-64", "--bucket=nest"],
        [*FOR_TRAINING, "--", *TRAINING],
        [*FOR_TRAINING, "--image=owl", "--", *TRAINING],
        ["logs", *WHERE, "--name=owl"],
        ["delete", *WHERE, "--name=owl"],
    ],
)
def test_what_dry_run_prints_does_the_same(stubs, words):
    run(stubs, *words)
    expected = stubs.calls()
    printed = run(stubs, words[0], "--dry-run", *words[1:]).stdout
    assert stubs.replay(printed) == expected
