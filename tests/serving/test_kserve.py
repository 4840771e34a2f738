"""The InferenceService of KServe has KServe's fields, and fits the other files."""

import json
import math
import pathlib
import re

import pytest
import yaml

from serving.server.configuration import read_batching
from tests.conftest import FIXTURES

DEPLOY = pathlib.Path(__file__).parents[2] / "serving" / "deploy"
DOCS = pathlib.Path(__file__).parents[2] / "docs"
TYPES = json.loads((FIXTURES / "kserve" / "inference_service.json").read_text())["types"]
PRIMITIVES = {"str": str, "int": int, "bool": bool}
# The arguments of config/runtimes/kserve-tensorflow-serving.yaml in KServe's repository.
RUNTIME_ARGUMENTS = [
    "--model_name=igpt",
    "--port=9000",
    "--rest_api_port=8080",
    "--model_base_path=/mnt/models",
    "--rest_api_timeout_in_ms=60000",
]


@pytest.fixture
def service():
    return yaml.safe_load((DEPLOY / "kserve.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def predictor(service):
    return service["spec"]["predictor"]


def check(value, kind, where):
    """Checks a value against a type of KServe; returns the parts that are of Kubernetes' types."""
    if kind in PRIMITIVES:
        assert type(value) is PRIMITIVES[kind], f"{where} is not of type {kind}: {value!r}"
        return {}
    if kind == "dict(str, str)":
        assert all(type(each) is str for pair in value.items() for each in pair), where
        return {}
    if kind.startswith("list["):
        assert type(value) is list, where
        parts = [check(each, kind[5:-1], f"{where}[{i}]") for i, each in enumerate(value)]
        return {where: value} if any(parts) else {}
    if kind not in TYPES:
        return {where: value}
    found = {}
    for name, part in value.items():
        assert name in TYPES[kind], f"{where}.{name} is no field of {kind}"
        found |= check(part, TYPES[kind][name], f"{where}.{name}")
    return found


def check_service(service):
    return check(service, "V1beta1InferenceService", "service")


def test_every_field_is_one_of_kserve_and_the_others_are_those_of_a_pod(service):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    found = check_service(service)
    model = {name.rpartition(".")[2]: part for name, part in found.items() if ".model." in name}
    assert set(model) == {"securityContext", "resources", "volumeMounts"}
    container = {"name": "kserve-container", "image": "image", **model}
    spec = {"containers": [container], "volumes": found["service.spec.predictor.volumes"]}
    metadata = found["service.metadata"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    kubernetes_validate.validate(pod, "1.37", strict=True)


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ((), "canaryTraffic", 10),
        ((), "minReplicas", "0"),
        (("model",), "runtimeVersion", 2.21),
        (("model", "modelFormat"), "kind", "tensorflow"),
    ],
)
def test_a_field_that_kserve_lacks_is_noticed(service, predictor, path, name, value):
    part = predictor
    for step in path:
        part = part[step]
    part[name] = value
    with pytest.raises(AssertionError, match=name):
        check_service(service)


def test_the_last_of_two_flags_raises_the_time_of_the_runtime(predictor):
    flags = dict(
        re.fullmatch(r"--(\w+)=(.+)", argument).groups()
        for argument in [*RUNTIME_ARGUMENTS, *predictor["model"]["args"]]
    )
    assert int(flags["rest_api_timeout_in_ms"]) == 1000 * predictor["timeout"]
    # Knative's max-revision-timeout-seconds, where nobody changed it.
    assert predictor["timeout"] <= 600
    assert flags["enable_batching"] == "true"


def test_the_configuration_is_that_of_the_other_deployments(predictor):
    (flag,) = [a for a in predictor["model"]["args"] if a.startswith("--batching_parameters_file")]
    mounts = {mount["mountPath"]: mount["name"] for mount in predictor["model"]["volumeMounts"]}
    file = pathlib.PurePosixPath(flag.partition("=")[2])
    volumes = {volume["name"]: volume for volume in predictor["volumes"]}
    config = volumes[mounts[str(file.parent)]]["configMap"]["name"]
    text = (DEPLOY / "kserve.yaml").read_text(encoding="utf-8")
    (source,) = re.findall(rf"create configmap {config} --from-file=serving/deploy/(\S+)", text)
    assert pathlib.PurePosixPath(source).name == file.name
    # A pod has room for one batch that runs and one that waits.
    batch = read_batching(DEPLOY / source).max_execution_batch_size
    assert (predictor["scaleTarget"], predictor["containerConcurrency"]) == (batch, 2 * batch)
    pinned = (DEPLOY / "base" / "serving.yaml").read_text(encoding="utf-8")
    assert f"tensorflow/serving:{predictor['model']['runtimeVersion']}\n" in pinned


def test_the_canary_of_the_documentation_is_a_valid_patch(service, predictor):
    page = (DOCS / "serving.md").read_text(encoding="utf-8")
    patches = re.findall(
        r"kubectl patch inferenceservice igpt --type merge (?:\\\n +)?-p '(.+?)'", page
    )
    assert len(patches) == 2
    before = predictor["model"]["storageUri"]
    for patch in patches:
        service = merged(service, json.loads(patch))
        check_service(service)
        if "canaryTrafficPercent" in patch and "null" not in patch:
            assert service["spec"]["predictor"]["canaryTrafficPercent"] == 10
            assert service["spec"]["predictor"]["model"]["storageUri"] != before
    # In the end all requests go to the new one.
    assert "canaryTrafficPercent" not in service["spec"]["predictor"]


def test_the_table_of_replicas_divides_by_what_was_measured():
    page = (DOCS / "serving.md").read_text(encoding="utf-8")
    one, eight = (
        float(re.search(rf"^\| images/s, {clients} \| ([\d.]+) \|$", page, re.MULTILINE)[1])
        for clients in ("1 client", "8 clients")
    )
    table = re.search(r"^\| images/s \| requests .+\n.+\n((?:\|.+\n)+)", page, re.MULTILINE)[1]
    rows = [[float(cell) for cell in row.split("|")[1:-1]] for row in table.splitlines()]
    assert len(rows) == 5
    for rate, *replicas in rows:
        assert replicas == [math.ceil(rate / (0.7 * measured)) for measured in (eight, one)]


def merged(value, patch):
    """Returns what RFC 7386 makes of a value and a patch."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for name, part in patch.items():
        if part is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), part)
    return result
