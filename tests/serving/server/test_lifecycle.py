import shutil
import threading

import grpc
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
)

from igpt_keras import InputError
from serving.server import BatchingParameters, Server
from serving.versions import WARMUP_FILE
from tests.serving.server.conftest import (
    ENDLESS,
    count_request,
    counted,
    refused,
    save_counting_model,
    scrape,
    wait_until,
)

State = get_model_status_pb2.ModelVersionStatus.State
POLL = 0.02


def statuses(stub, name="igpt"):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    response = stub.GetModelStatus(request, timeout=30)
    return {status.version: status for status in response.model_version_status}


def break_version(folder):
    path = folder / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:100])


@pytest.fixture
def directory(counting, tmp_path):
    shutil.copytree(counting / "1", tmp_path / "1")
    return tmp_path


def test_a_new_version_is_picked_up_and_the_old_one_ends(directory, connect):
    with Server(directory, poll_seconds=POLL) as server:
        stub, status = connect(server), connect(server, model_service_pb2_grpc.ModelServiceStub)
        assert counted(stub.Predict(count_request(0), timeout=30)) == [1]
        save_counting_model(directory, 2)
        wait_until(
            lambda: statuses(status).keys() == {1, 2} and statuses(status)[1].state == State.END
        )
        assert statuses(status)[2].state == State.AVAILABLE
        response = stub.Predict(count_request(0), timeout=30)
        assert counted(response) == [2]
        assert response.model_spec.version.value == 2
        code, message = refused(stub.Predict, count_request(0, version=1))
    assert code == grpc.StatusCode.NOT_FOUND
    assert message == "Servable not found for request: Specific(igpt, 1)"


def test_old_requests_finish_on_the_version_they_began_with(directory, connect):
    with Server(directory, poll_seconds=POLL) as server:
        stub, status = connect(server), connect(server, model_service_pb2_grpc.ModelServiceStub)
        old = stub.Predict.future(count_request(0, steps=ENDLESS))
        wait_until(lambda: server.in_flight)
        save_counting_model(directory, 2)
        wait_until(lambda: 2 in statuses(status) and statuses(status)[1].state == State.UNLOADING)
        assert counted(stub.Predict(count_request(0), timeout=30)) == [2]
        assert not old.done()
        old.cancel()
        wait_until(lambda: statuses(status)[1].state == State.END)


def test_a_broken_new_version_leaves_the_old_one_and_shows(directory, connect):
    with Server(directory, poll_seconds=POLL) as server:
        stub, status = connect(server), connect(server, model_service_pb2_grpc.ModelServiceStub)
        (directory / ".2").mkdir()
        (directory / ".2" / "saved_model.pb").write_bytes(b"no graph")
        (directory / ".2").rename(directory / "2")
        wait_until(lambda: 2 in statuses(status) and statuses(status)[2].state == State.END)
        error = statuses(status)[2].status
        assert error.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert f"{directory / '2'} is not a SavedModel" in error.error_message
        assert statuses(status)[1].state == State.AVAILABLE
        assert statuses(status)[1].status.error_code == 0
        assert counted(stub.Predict(count_request(0), timeout=30)) == [1]

        # Once its files are others, it is tried again.
        shutil.rmtree(directory / "2")
        save_counting_model(directory, 2)
        wait_until(lambda: server.versions == {"igpt": [2]})
        assert counted(stub.Predict(count_request(0), timeout=30)) == [2]


def test_a_broken_newest_version_at_the_start(directory):
    break_version(save_counting_model(directory, 2))
    with Server(directory) as server:
        assert server.versions == {"igpt": [1]}


def test_a_removed_version_gives_way_to_the_one_before(directory, connect, caplog):
    save_counting_model(directory, 2)
    with Server(directory, poll_seconds=POLL) as server:
        assert server.versions == {"igpt": [2]}
        shutil.rmtree(directory / "2")
        wait_until(lambda: server.versions == {"igpt": [1]})
        stub = connect(server)
        assert counted(stub.Predict(count_request(0), timeout=30)) == [1]
        # With none left, the last one stays.
        shutil.rmtree(directory / "1")
        wait_until(
            lambda: f"stays as it was: directory {directory} holds no version" in caplog.text
        )
        assert counted(stub.Predict(count_request(0), timeout=30)) == [1]


def test_swapping_versions_loses_no_request(directory, connect):
    answers, failures, stop = [], [], threading.Event()

    def ask(stub):
        while not stop.is_set():
            try:
                answers.append(counted(stub.Predict(count_request(0, steps=100), timeout=30))[0])
            except grpc.RpcError as error:
                failures.append(error)

    with Server(directory, poll_seconds=POLL) as server:
        threads = [threading.Thread(target=ask, args=(connect(server),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for version in range(2, 5):
            save_counting_model(directory, version)
            wait_until(lambda version=version: answers[-1:] == [version])
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert {1, 4} <= set(answers) <= {1, 2, 3, 4}


def write_config(path, text):
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.rename(path)


def model_config(name, directory, rest=""):
    return f'config {{ name: "{name}" base_path: "{directory}" {rest} }}\n'


def model_config_list(*configs):
    return f"model_config_list {{ {' '.join(configs)} }}"


def test_several_models_versions_and_labels_of_a_config_file(directory, connect, tmp_path, caplog):
    for version in (2, 3):
        save_counting_model(directory, version)
    labels = 'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 3 }'
    two = "model_version_policy { specific { versions: 1 versions: 3 } }"
    path = tmp_path / "models.config"
    write_config(
        path,
        model_config_list(
            model_config("two", directory, f"{two} {labels}"),
            model_config("all", directory, "model_version_policy { all {} }"),
            model_config(
                "latest", directory, "model_version_policy { latest { num_versions: 2 } }"
            ),
        ),
    )

    def labeled(label):
        request = count_request(0, name="two")
        request.model_spec.version_label = label
        return request

    with Server(model_config_file=path, poll_seconds=POLL) as server:
        assert server.versions == {"two": [1, 3], "all": [1, 2, 3], "latest": [2, 3]}
        stub = connect(server)
        assert counted(stub.Predict(labeled("stable"), timeout=30)) == [1]
        assert counted(stub.Predict(labeled("canary"), timeout=30)) == [3]
        assert counted(stub.Predict(count_request(0, name="all", version=2), timeout=30)) == [2]
        assert refused(stub.Predict, count_request(0, name="two", version=2))[0] == (
            grpc.StatusCode.NOT_FOUND
        )
        assert refused(stub.Predict, labeled("beta")) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "Unrecognized servable version label: beta",
        )
        # The file is read again: a label moves, models go.
        write_config(
            path,
            model_config_list(model_config("two", directory, two + labels.replace(": 1 ", ": 3 "))),
        )
        wait_until(lambda: server.versions == {"two": [1, 3]})
        wait_until(lambda: counted(stub.Predict(labeled("stable"), timeout=30)) == [3])
        # Another folder takes the place of the first, version for version.
        other = tmp_path / "other"
        other.mkdir()
        shutil.copytree(directory / "1", other / "3")
        write_config(path, model_config_list(model_config("two", other, two)))
        wait_until(lambda: server.versions == {"two": [3]})
        assert counted(stub.Predict(count_request(0, name="two"), timeout=30)) == [1]
        # A file that cannot be used changes nothing.
        write_config(path, "model_config_list { config { nome: 1 } }")
        wait_until(lambda: "the models stay as they were" in caplog.text)
        assert counted(stub.Predict(count_request(0, name="two"), timeout=30)) == [1]


def write_warmup(folder, *logs):
    path = folder / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def predict_log(request):
    return prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )


def test_warm_up_requests_run_at_load(directory):
    write_warmup(directory / "1", predict_log(count_request(1, 2)), predict_log(count_request(1)))
    with Server(directory, metrics_port=0) as server:
        metrics = {name: value for (name, *_), value in scrape(server).items()}
    assert metrics["igpt_serving_batch_examples_count"] == 2
    assert metrics["igpt_serving_batch_examples_sum"] == 3


@pytest.mark.parametrize(
    "log, message",
    [
        (predict_log(count_request(-1)), "value must be at least 0"),
        (predict_log(predict_pb2.PredictRequest()), "input size does not match"),
        (prediction_log_pb2.PredictionLog(), "must be of Predict or Classify"),
    ],
    ids=["refused", "empty", "no request"],
)
def test_a_version_whose_warm_up_fails_is_broken(directory, log, message):
    write_warmup(directory / "1", log)
    with pytest.raises(InputError, match=message):
        Server(directory)


def health_of(stub, service=""):
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status


def test_shutting_down_says_so_and_finishes_what_is_under_way(counting, connect):
    server = Server(counting, batching=BatchingParameters(max_batch_size=1))
    server.start()
    stub, health = connect(server), connect(server, health_pb2_grpc.HealthStub)
    serving = health_pb2.HealthCheckResponse
    # TensorFlow Serving knows the services by their short names.
    for service in (
        "",
        "PredictionService",
        "ModelService",
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
    ):
        assert health_of(health, service) == serving.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
    assert next(watch).status == serving.SERVING
    under_way = stub.Predict.future(count_request(0, steps=200_000), timeout=60)
    wait_until(lambda: server.in_flight)
    stopping = threading.Thread(target=server.stop, args=(60,))
    stopping.start()
    assert next(watch).status == serving.NOT_SERVING
    assert counted(under_way.result()) == [1]
    stopping.join()
    assert refused(stub.Predict, count_request(0))[0] == grpc.StatusCode.UNAVAILABLE


def test_shutting_down_cancels_what_does_not_end(counting, connect):
    server = Server(counting)
    server.start()
    call = connect(server).Predict.future(count_request(0, steps=ENDLESS))
    wait_until(lambda: server.in_flight)
    server.stop(0.1)
    assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
    server.stop()
