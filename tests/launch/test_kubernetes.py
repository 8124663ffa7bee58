"""The manifests of launch/kubernetes: Kubernetes' own schemas, and what they say of the server."""

import re
from pathlib import Path

import forked
import kubernetes_validate
import pytest
import yaml
from stubs import REPOSITORY

from owl_jax.inference.requests import Stats
from owl_jax.serving.keys import OPEN
from owl_jax.serving.metrics import Metrics

FOLDER = REPOSITORY / "launch" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS = {
    manifest["kind"]: manifest
    for name in KUSTOMIZATION["resources"]
    for manifest in yaml.safe_load_all((FOLDER / name).read_text())
}
NO_SCHEMA = {"PodMonitoring"}  # Google's own

DEPLOYMENT = MANIFESTS["Deployment"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
(CONTAINER,) = POD["containers"]


def flag(name):
    """The value of one of the server's flags."""
    (value,) = [a.partition("=")[2] for a in CONTAINER["args"] if a.startswith(f"--{name}=")]
    return value


@pytest.mark.parametrize("kind", sorted(MANIFESTS.keys() - NO_SCHEMA))
def test_kubernetes_schemas(kind):
    kubernetes_validate.validate(MANIFESTS[kind], "1.34", strict=True)


def test_a_wrong_field_is_found():
    wrong = {**MANIFESTS["Service"], "spec": {"selectors": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def test_every_file_is_applied():
    assert {*KUSTOMIZATION["resources"], "kustomization.yaml"} == {
        path.name for path in FOLDER.iterdir()
    }
    assert [image["name"] for image in KUSTOMIZATION["images"]] == [CONTAINER["image"]]


def test_all_mean_the_same_pods():
    labels = DEPLOYMENT["template"]["metadata"]["labels"]
    assert MANIFESTS["Service"]["spec"]["selector"].items() <= labels.items()
    for spec in (
        DEPLOYMENT,
        MANIFESTS["PodDisruptionBudget"]["spec"],
        MANIFESTS["PodMonitoring"]["spec"],
    ):
        assert spec["selector"]["matchLabels"].items() <= labels.items()
    target = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    deployment = MANIFESTS["Deployment"]
    assert target == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in DEPLOYMENT


def test_ports_and_paths_are_the_servers():
    (port,) = CONTAINER["ports"]
    assert str(port["containerPort"]) == flag("port") and flag("host") == "0.0.0.0"
    (forwarded,) = MANIFESTS["Service"]["spec"]["ports"]
    (scraped,) = MANIFESTS["PodMonitoring"]["spec"]["endpoints"]
    probes = [CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
    for name in (forwarded["targetPort"], scraped["port"], *(probe["port"] for probe in probes)):
        assert name == port["name"]
    # Without a key, which kubelets and Prometheus do not have.
    assert {scraped["path"], *(probe["path"] for probe in probes)} == OPEN


def test_the_autoscaler_reads_a_gauge_of_the_server():
    (metric,) = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    domain, name, kind = metric["pods"]["metric"]["name"].split("|")
    assert domain == "prometheus.googleapis.com"
    metrics = Metrics("owl", "m", lambda: Stats(*[0] * 10)).text().decode()
    assert f"# TYPE {name} {kind}\n" in metrics


def test_a_pod_has_the_time_to_drain():
    pause = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    # What is left is for the engine's last chunk and the end of the process.
    assert POD["terminationGracePeriodSeconds"] >= pause + float(flag("drain_seconds")) + 30
    readiness = CONTAINER["readinessProbe"]
    assert pause >= readiness["periodSeconds"] * readiness["failureThreshold"]


def test_volumes_are_read_only_and_hold_what_the_flags_name():
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == volumes.keys()
    assert all(mount["readOnly"] for mount in mounts.values())
    assert volumes["bucket"]["csi"]["readOnly"]
    assert "secret" in volumes[mounts[str(Path(flag("api_key_file")).parent)]["name"]]
    assert flag("model").startswith(f"{mounts['/bucket']['mountPath']}/")


def test_chips_of_the_slice_are_those_of_the_mesh():
    chips = CONTAINER["resources"]["limits"]["google.com/tpu"]
    assert CONTAINER["resources"]["requests"]["google.com/tpu"] == chips
    rows, columns = POD["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert int(rows) * int(columns) == int(flag("mesh_tensor")) == chips


def test_the_command_line_is_one_of_the_server(tmp_path):
    """It fails where the model is read: no flag is unknown, and the keys are there."""
    secret = tmp_path / "..data"  # a volume of a Secret holds symbolic links
    secret.mkdir()
    (secret / "keys").write_text("0123456789abcdef\n")
    (tmp_path / "keys").symlink_to("..data/keys")
    assert CONTAINER["command"][:2] == ["bash", "-c"]
    assert CONTAINER["command"][2].endswith('exec "$@"')  # so that SIGTERM reaches Python
    python, *arguments = CONTAINER["args"]
    assert python == "python"
    here = {"/keys/": f"{tmp_path}/", "/bucket/": f"{tmp_path}/", "--port=8000": "--port=0"}
    for theirs, ours in here.items():
        arguments = [argument.replace(theirs, ours) for argument in arguments]
    result = forked.run(*arguments)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert re.match(rf"error: .*{tmp_path}/mplug-owl-llama-7b", line), line
