"""The files for TensorFlow Serving: they parse, and fit each other and the local server."""

import pathlib
import re

import pytest
import yaml

from serving.server.configuration import (
    PROMETHEUS_PATH,
    read_batching,
    read_models,
    read_monitoring,
)
from serving.transport import MAX_MESSAGE_BYTES

DEPLOY = pathlib.Path(__file__).parents[2] / "serving" / "deploy"
CONFIGS = {path.name for path in (DEPLOY / "base").glob("*.config")}


def documents(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def compose():
    (file,) = documents("compose.yaml")
    return file["services"]["igpt"]


@pytest.fixture(scope="module")
def kinds():
    return {document["kind"]: document for document in documents("base/serving.yaml")}


@pytest.fixture(scope="module")
def container(kinds):
    (container,) = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
    return container


def flags(arguments):
    return dict(re.fullmatch(r"--(\w+)=(.+)", argument).groups() for argument in arguments)


def test_the_configurations_are_those_of_the_local_server_too():
    (model,) = read_models(DEPLOY / "base" / "models.config")
    assert (model.name, model.base_path) == ("igpt", "/models/igpt")
    parameters = read_batching(DEPLOY / "base" / "batching.config")
    assert parameters.batch_size == 8 and parameters.enable_large_batch_splitting
    assert read_monitoring(DEPLOY / "base" / "monitoring.config") == PROMETHEUS_PATH


def test_compose_mounts_what_the_server_reads(compose):
    (model,) = read_models(DEPLOY / "base" / "models.config")
    mounts = dict(volume.rsplit(":", 2)[:2] for volume in compose["volumes"])
    targets = {target: source for source, target in mounts.items()}
    assert model.base_path in targets
    used = {value for value in flags(compose["command"]).values() if value.startswith("/config/")}
    assert used == {f"/config/{name}" for name in CONFIGS}
    for target in used:
        assert (DEPLOY / targets[target]).name == pathlib.PurePath(target).name
        assert (DEPLOY / targets[target]).exists()


def test_kubernetes_mounts_what_the_server_reads(kinds, container):
    (kustomization,) = documents("base/kustomization.yaml")
    (generator,) = kustomization["configMapGenerator"]
    assert set(generator["files"]) == CONFIGS
    assert all((DEPLOY / "base" / name).exists() for name in kustomization["resources"])
    volumes = kinds["Deployment"]["spec"]["template"]["spec"]["volumes"]
    by_name = {volume["name"]: volume for volume in volumes}
    assert by_name["config"]["configMap"]["name"] == generator["name"]
    claim = by_name["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == kinds["PersistentVolumeClaim"]["metadata"]["name"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {"/models/igpt": "models", "/config": "config"}
    used = {value for value in flags(container["args"]).values() if value.startswith("/config/")}
    assert used == {f"/config/{name}" for name in CONFIGS}


def test_compose_and_kubernetes_start_the_server_alike(compose, container):
    ports = {"port": "8500", "rest_api_port": "8501"}
    assert flags(container["args"]) == {**flags(compose["command"]), **ports}
    arguments = flags(compose["command"])
    limit = f"grpc.max_receive_message_length={MAX_MESSAGE_BYTES}"
    assert arguments["grpc_channel_arguments"] == limit
    assert arguments["enable_grpc_healthcheck_service"] == "true"


def test_pods_are_found_and_asked_for_their_health(kinds, container):
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert kinds["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    service = kinds["Service"]["spec"]
    assert service["selector"] == labels and service["clusterIP"] == "None"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["name"]: port["port"] for port in service["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == ports["grpc"]
    monitoring = kinds["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    path = read_monitoring(DEPLOY / "base" / "monitoring.config")
    assert monitoring["prometheus.io/path"] == path
    assert monitoring["prometheus.io/port"] == str(ports["http"])


def test_the_gpu_variant_changes_the_image_and_asks_for_a_gpu(container):
    (kustomization,) = documents("gpu/kustomization.yaml")
    assert [DEPLOY / "gpu" / name for name in kustomization["resources"]] == [
        DEPLOY / "gpu" / ".." / "base"
    ]
    (image,) = kustomization["images"]
    assert container["image"].partition(":")[0] == image["name"]
    (patch,) = kustomization["patches"]
    (operation,) = yaml.safe_load(patch["patch"])
    assert operation["op"] == "add" and operation["value"] == 1
    assert operation["path"] == (
        "/spec/template/spec/containers/0/resources/limits/nvidia.com~1gpu"
    )
    assert "limits" in container["resources"]
