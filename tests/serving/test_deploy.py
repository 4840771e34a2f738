"""The files for TensorFlow Serving: they parse, and fit each other and the local server."""

import http.server
import pathlib
import re
import shutil
import subprocess
import threading

import grpc
import pytest
import yaml
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.server import Server
from serving.server.configuration import (
    PROMETHEUS_PATH,
    read_batching,
    read_models,
    read_monitoring,
)
from serving.transport import MAX_MESSAGE_BYTES
from tests.serving.server.conftest import count_request, counted, save_counting_model, scrape
from tests.training.replicas import free_ports

DEPLOY = pathlib.Path(__file__).parents[2] / "serving" / "deploy"
CONFIGS = {path.name for path in (DEPLOY / "base").glob("*.config")}
# A client of gRPC asks DNS at most that often.
RESOLUTION_SECONDS = 30


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
def deployed(kinds):
    """The pods of the Deployment."""
    return kinds["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(deployed):
    (container,) = deployed["containers"]
    return container


@pytest.fixture(scope="module")
def uploader():
    (pod,) = documents("uploader.yaml")
    return pod


@pytest.fixture(scope="module")
def gpu():
    (kustomization,) = documents("gpu/kustomization.yaml")
    return kustomization


def flags(arguments):
    return dict(re.fullmatch(r"--(\w+)=(.+)", argument).groups() for argument in arguments)


def channel_arguments(arguments):
    pairs = flags(arguments)["grpc_channel_arguments"].split(",")
    return {name: int(value) for name, value in (pair.split("=") for pair in pairs)}


def test_the_local_server_runs_from_the_files_as_they_stand(tmp_path, compose):
    save_counting_model(tmp_path / "served", 3)
    base = DEPLOY / "base"
    (rest_port,) = free_ports(1)
    with (
        Server(
            model_config_file=base / "models.config",
            volumes={"/models": "nowhere", "/models/igpt": tmp_path / "served"},
            batching=read_batching(base / "batching.config"),
            rest_port=rest_port,
            metrics_port=rest_port,
            metrics_path=read_monitoring(base / "monitoring.config"),
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert server.versions == {"igpt": [3]}
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert counted(stub.Predict(count_request(1), timeout=30)) == [4]
        assert server.metrics_address == f"{server.rest_address}{PROMETHEUS_PATH}"
        assert any("loaded_version" in key[0] for key in scrape(server))
        if shutil.which("bash"):
            assert is_healthy(compose, rest_port)
    if shutil.which("bash"):
        assert not is_healthy(compose, rest_port)


def is_healthy(compose, port):
    """Runs the health check of the compose file against a port of this machine."""
    kind, *command = compose["healthcheck"]["test"]
    assert kind == "CMD" and "8501" in command[-1]
    command[-1] = command[-1].replace("8501", str(port))
    return subprocess.run(command, timeout=30, capture_output=True).returncode == 0


def test_compose_mounts_what_the_server_reads(compose):
    (model,) = read_models(DEPLOY / "base" / "models.config")
    models, *configs = compose["volumes"]
    assert models["type"] == "bind" and models["read_only"]
    assert models["target"] == model.base_path
    assert models["bind"] == {"create_host_path": False}
    targets = {}
    for volume in configs:
        source, target, mode = volume.split(":")
        assert mode == "ro"
        targets[target] = source
    used = {value for value in flags(compose["command"]).values() if value.startswith("/config/")}
    assert used == {f"/config/{name}" for name in CONFIGS}
    for target in used:
        assert (DEPLOY / targets[target]).name == pathlib.PurePath(target).name
        assert (DEPLOY / targets[target]).exists()


def test_kubernetes_mounts_what_the_server_reads(kinds, deployed, container, uploader):
    (kustomization,) = documents("base/kustomization.yaml")
    (generator,) = kustomization["configMapGenerator"]
    assert set(generator["files"]) == CONFIGS
    assert all((DEPLOY / "base" / name).exists() for name in kustomization["resources"])
    by_name = {volume["name"]: volume for volume in deployed["volumes"]}
    assert by_name["config"]["configMap"]["name"] == generator["name"]
    claim = by_name["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == kinds["PersistentVolumeClaim"]["metadata"]["name"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    names = {path: mount["name"] for path, mount in mounts.items()}
    assert names == {"/models/igpt": "models", "/config": "config", "/tmp": "scratch"}
    assert mounts["/models/igpt"]["readOnly"] and mounts["/config"]["readOnly"]
    used = {value for value in flags(container["args"]).values() if value.startswith("/config/")}
    assert used == {f"/config/{name}" for name in CONFIGS}
    # The uploader writes where the server reads.
    assert [volume for volume in uploader["spec"]["volumes"]] == [by_name["models"]]
    (writer,) = uploader["spec"]["containers"]
    assert writer["volumeMounts"] == [{"name": "models", "mountPath": "/models/igpt"}]
    assert kinds["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_compose_and_kubernetes_start_the_server_alike(compose, container):
    assert compose["command"] == container["args"]
    assert compose["entrypoint"] == container["command"] == ["tensorflow_model_server"]
    arguments = flags(container["args"])
    limit = channel_arguments(container["args"])["grpc.max_receive_message_length"]
    assert limit == MAX_MESSAGE_BYTES
    assert arguments["enable_grpc_healthcheck_service"] == "true"
    # Without it, a server that starts refuses a configuration with labels.
    assert arguments["allow_version_labels_for_unavailable_models"] == "true"


def test_one_image_is_pinned_everywhere(compose, container, uploader, gpu):
    (override,) = documents("compose.gpu.yaml")
    (image,) = gpu["images"]
    (writer,) = uploader["spec"]["containers"]
    pinned = container["image"]
    assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+", pinned)
    assert writer["image"] == pinned
    assert compose["image"] == f"${{IMAGE:-{pinned}}}"
    assert override["services"]["igpt"]["image"] == f"${{IMAGE:-{pinned}-gpu}}"
    assert f"{image['name']}:{image['newTag']}" == f"{pinned}-gpu"


def test_pods_have_no_rights_that_they_do_not_need(deployed, uploader, compose):
    for pod in (deployed, uploader["spec"]):
        assert pod["automountServiceAccountToken"] is False
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] > 0
        # What the uploader writes, the server may read.
        assert context == deployed["securityContext"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    assert int(compose["user"].partition(":")[0]) > 0
    assert compose["read_only"] is True and compose["cap_drop"] == ["ALL"]
    assert compose["security_opt"] == ["no-new-privileges:true"]


def test_the_server_answers_until_clients_have_gone_and_then_ends_at_once(
    deployed, container, compose
):
    # The server itself ignores SIGTERM where it is the first process.
    assert deployed["shareProcessNamespace"] is True and compose["init"] is True
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    # gRPC spreads the age by a tenth.
    age = 1.1 * channel_arguments(container["args"])["grpc.max_connection_age_ms"] / 1000
    assert int(seconds) >= age + RESOLUTION_SECONDS + 30
    assert deployed["terminationGracePeriodSeconds"] > int(seconds)


def test_the_network_policy_lets_clients_in_and_nothing_out(kinds, container):
    policy = kinds["NetworkPolicy"]["spec"]
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"} and policy["egress"] == []
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    allowed = [
        ([next(iter(source)) for source in rule["from"]], {each["port"] for each in rule["ports"]})
        for rule in policy["ingress"]
    ]
    assert allowed == [
        (["podSelector"], set(ports.values())),
        (["namespaceSelector"], {ports["http"]}),
    ]


def test_pods_are_found_and_asked_for_their_health(kinds, container, uploader):
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert kinds["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert "labels" not in uploader["metadata"], "no client shall find the uploader"
    service = kinds["Service"]["spec"]
    assert service["selector"] == labels and service["clusterIP"] == "None"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["name"]: port["port"] for port in service["ports"]} == ports
    arguments = flags(container["args"])
    assert (arguments["port"], arguments["rest_api_port"]) == (
        str(ports["grpc"]),
        str(ports["http"]),
    )
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == ports["grpc"]
    monitoring = kinds["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    path = read_monitoring(DEPLOY / "base" / "monitoring.config")
    assert monitoring["prometheus.io/path"] == path
    assert monitoring["prometheus.io/port"] == str(ports["http"])


@pytest.mark.skipif(shutil.which("bash") is None, reason="the health check is a script of bash")
@pytest.mark.parametrize(
    ("status", "state", "healthy"),
    [(200, "AVAILABLE", True), (200, "LOADING", False), (404, None, False), (200, "END", False)],
)
def test_the_health_check_of_compose_knows_an_available_model(compose, status, state, healthy):
    # As TensorFlow Serving answers (its api_rest.md); a version that failed names the reason.
    answers = {
        "AVAILABLE": '"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}',
        "LOADING": '"state": "LOADING", "status": {"error_code": "OK", "error_message": ""}',
        "END": '"state": "END", "status": {"error_code": "UNAVAILABLE", "error_message": ""}',
        None: '"error": "Could not find any versions of model igpt"',
    }
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append(self.path)
            content = f'{{"model_version_status": [{{"version": "1", {answers[state]}}}]}}'.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    try:
        assert is_healthy(compose, server.server_port) == healthy
    finally:
        server.shutdown()
        server.server_close()
    assert asked == ["/v1/models/igpt"]


def test_the_gpu_variants_ask_for_a_gpu_and_need_no_spare_one(kinds, container, gpu):
    (override,) = documents("compose.gpu.yaml")
    reservations = override["services"]["igpt"]["deploy"]["resources"]["reservations"]
    assert reservations["devices"] == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert [DEPLOY / "gpu" / name for name in gpu["resources"]] == [DEPLOY / "gpu" / ".." / "base"]
    (patch,) = gpu["patches"]
    device, environment, rollout = yaml.safe_load(patch["patch"])
    assert device == {
        "op": "add",
        "path": "/spec/template/spec/containers/0/resources/limits/nvidia.com~1gpu",
        "value": 1,
    }
    assert "limits" in container["resources"]
    assert environment["op"] == "add" and "env" not in container
    deployment = kinds["Deployment"]["spec"]
    assert rollout["op"] == "replace" and rollout["path"] == "/spec/strategy/rollingUpdate"
    assert "rollingUpdate" in deployment["strategy"]
    assert rollout["value"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert deployment["replicas"] > kinds["PodDisruptionBudget"]["spec"]["minAvailable"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("variant", ["base", "gpu"])
def test_kustomize_builds_the_variants(variant):
    built = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / variant)], capture_output=True, text=True, timeout=60
    )
    assert built.returncode == 0, built.stderr
    kinds = {document["kind"]: document for document in yaml.safe_load_all(built.stdout)}
    (container,) = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith("-gpu") == (variant == "gpu")
    assert set(kinds["ConfigMap"]["data"]) == CONFIGS
