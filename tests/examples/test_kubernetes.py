"""The Indexed Job: its files fit each other, and its command trains, also after failures."""

import copy
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

import igpt_keras
from igpt_keras.runs import Pretrain, read_result
from tests.cli.processes import last_checkpoint
from tests.training.replicas import free_ports

ROOT = pathlib.Path(__file__).parents[2]
MANIFEST = ROOT / "examples" / "kubernetes" / "train.yaml"
SETTINGS = {
    "image_size": 8,
    "num_colors": 8,
    "num_layers": 1,
    "hidden_dim": 16,
    "num_heads": 2,
    "steps": 200,
    "batch_size": 16,
    "learning_rate": 0.001,
    "snapshots": 1,
    "checkpoint_every": 20,
}


@pytest.fixture(scope="module")
def documents():
    return list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def kinds(documents):
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def job(kinds):
    return kinds["Job"]["spec"]


@pytest.fixture(scope="module")
def pod(job):
    return job["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (container,) = pod["containers"]
    return container


@pytest.fixture(scope="module")
def variables(container):
    return {variable["name"]: variable["value"] for variable in container["env"]}


def test_every_object_is_valid_by_the_schemas_of_kubernetes(documents):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    assert len(documents) == 4
    for document in documents:
        kubernetes_validate.validate(document, "1.37", strict=True)
    wrong = copy.deepcopy(documents[-1])
    wrong["spec"]["podFailurePolicy"]["rules"][0]["exitCodes"] = [3]
    with pytest.raises(kubernetes_validate.ValidationError, match="exitCodes"):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_workers_find_each_other(kinds, job, pod, container, variables):
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == int(variables["WORKERS"])
    (port,) = container["ports"]
    service, name = kinds["Service"], kinds["Job"]["metadata"]["name"]
    # Kubernetes names the pod of index 0 NAME-0, and its address is NAME-0.SUBDOMAIN.
    assert pod["subdomain"] == service["metadata"]["name"]
    assert variables["ADDRESS"] == f"{name}-{{}}.{pod['subdomain']}:{port['containerPort']}"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    labels = job["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    policy = kinds["NetworkPolicy"]["spec"]
    (rule,) = policy["ingress"]
    assert [policy["podSelector"], *rule["from"]] == [
        {"matchLabels": labels},
        {"podSelector": {"matchLabels": labels}},
    ]
    assert [each["port"] for each in rule["ports"]] == [port["containerPort"]]


def test_only_failures_that_may_pass_start_a_pod_again(job, pod, container):
    rules = job["podFailurePolicy"]["rules"]
    codes = {
        code: rule["action"]
        for rule in rules
        if "onExitCodes" in rule
        for code in rule["onExitCodes"]["values"]
    }
    assert codes == {2: "FailJob", 3: "FailJob", 143: "Ignore"}
    for rule in rules:
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] == container["name"]
            assert rule["onExitCodes"]["operator"] == "In"
    assert rules[-1]["onPodConditions"][0]["type"] == "DisruptionTarget"
    # Kubernetes refuses a policy with another one.
    assert pod["restartPolicy"] == "Never"
    # Two that write to the run would be an error of the second, with status 2.
    assert job["podReplacementPolicy"] == "Failed"
    # SIGTERM does not reach the first process of a container if it has no handler.
    assert pod["shareProcessNamespace"] is True


def test_the_run_is_on_a_volume_of_all_workers(kinds, pod, container, variables):
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    claim = volumes[mounts["/runs"]["name"]]["persistentVolumeClaim"]["claimName"]
    assert variables["RUN"].startswith("/runs/")
    assert kinds["PersistentVolumeClaim"]["metadata"]["name"] == claim
    assert kinds["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    (data,) = [value for value in container["args"] if value.startswith("--data=folder:")]
    assert mounts[data.removeprefix("--data=folder:")]["readOnly"] is True
    assert volumes[mounts["/tmp"]["name"]]["emptyDir"]


def test_pods_have_no_rights_that_they_do_not_need(pod, container):
    assert pod["automountServiceAccountToken"] is False
    assert (
        pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
    )
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not re.search(r"(:latest|^[^:]+)$", container["image"])


def start(container, index, run, address, arguments, path=()):
    """Starts the command of a pod as it stands."""
    interpreter, *command = container["command"]
    assert interpreter == "python"
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([*map(str, path), str(pathlib.Path(sys.executable).parent)]),
        "PYTHONPATH": str(ROOT),
        "JOB_COMPLETION_INDEX": str(index),
        "WORKERS": "2",
        "ADDRESS": address,
        "RUN": str(run),
    }
    return subprocess.Popen(
        [sys.executable, *command, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("index", [0, 1])
def test_a_pod_begins_a_run_or_resumes_it(tmp_path, container, variables, index):
    igpt = tmp_path / "igpt"
    igpt.write_text('#!/bin/sh\necho "$TF_CONFIG"\nprintf "%s\\n" "$@"\n')
    igpt.chmod(0o755)
    for begun in (False, True):
        if begun:
            (tmp_path / "run.json").touch()
        process = start(
            container, index, tmp_path, variables["ADDRESS"], container["args"], path=[tmp_path]
        )
        printed, *words = process.communicate(timeout=60)[0].splitlines()
        assert json.loads(printed) == {
            "cluster": {"worker": [f"igpt-train-{i}.igpt-train:2222" for i in range(2)]},
            "task": {"type": "worker", "index": index},
        }
        new = ["--output", str(tmp_path), *container["args"]]
        assert words == ["pretrain", *(["--resume", str(tmp_path)] if begun else new)]


def test_its_options_are_those_of_the_command(container, igpt, tmp_path):
    (tmp_path / "images").mkdir()
    arguments = [each.replace("/images", str(tmp_path / "images")) for each in container["args"]]
    status, _, errors = igpt("pretrain", *arguments, "--output", tmp_path / "run")
    # All options are known; only the images are missing.
    assert status == 2 and str(tmp_path / "images") in errors


def is_free(port):
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def addresses():
    """An address with a place for the index, of ports that are free for 0 and for 1."""
    while True:
        tens = free_ports(1)[0] // 10
        if is_free(10 * tens) and is_free(10 * tens + 1):
            return f"127.0.0.1:{tens}{{}}"


@pytest.fixture
def pods(container, tmp_path):
    """Starts both pods, and kills what is left of them."""
    started = []
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]

    def start_both():
        address = addresses()
        both = [
            start(container, index, tmp_path / "run", address, ["--data=digits", *arguments])
            for index in range(2)
        ]
        started.extend(both)
        return both

    yield start_both
    for process in started:
        process.kill()
        process.communicate()


def wait_until(condition, processes):
    while not condition():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.005)


@pytest.mark.slow
def test_pods_that_are_killed_end_where_one_process_ends(tmp_path, pods):
    run = tmp_path / "run"
    # Another worker than the first, in the middle.
    first, second = pods()
    wait_until(lambda: last_checkpoint(run / "checkpoints") >= 40, [first, second])
    second.send_signal(signal.SIGKILL)
    assert first.wait(timeout=60) not in (0, 2, 3)
    assert last_checkpoint(run / "checkpoints") < SETTINGS["steps"]
    # The first one, when all steps are done and it writes: the other one must not be gone.
    first, second = pods()
    wait_until((run / "model" / "igpt.json").exists, [first, second])
    first.send_signal(signal.SIGKILL)
    assert second.wait(timeout=60) not in (0, 2, 3)
    assert not (run / "result.json").exists()
    for _ in ("resumed", "finished"):
        both = pods()
        outputs = [process.communicate(timeout=200)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
    Pretrain.open(Pretrain.Settings(**SETTINGS), "digits", tmp_path / "whole").run()
    models = [igpt_keras.load(folder / "model") for folder in (run, tmp_path / "whole")]
    for ours, theirs in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert read_result(run).metrics["history"]["step"] == [SETTINGS["steps"]]
