"""Calls that open a stream and then say nothing, or nothing that can be understood."""

import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.server import Server, calls
from tests.serving.server.conftest import (
    ENDLESS,
    count_request,
    counted,
    metric,
    scrape,
    wait_until,
)

PREDICT = "/tensorflow.serving.PredictionService/Predict"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


@pytest.fixture
def open_silent():
    """Opens calls of which the server gets the headers, and no message before the test's end."""
    ended = threading.Event()

    def nothing():
        ended.wait()
        return
        yield

    yield lambda channel, path: channel.stream_unary(path).future(nothing())
    ended.set()


def requests(server, method, status, model=""):
    signature = "serving_default" if model else ""
    labels = {"method": method, "status": status, "model": model, "signature": signature}
    return scrape(server).get(metric("igpt_serving_requests_total", **labels), 0)


def is_healthy(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status == 1


def predict(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return counted(stub.Predict(count_request(4), timeout=30))


def test_silent_calls_of_every_kind_stop_nobody(counting, open_silent):
    with Server(counting, max_requests=2) as server:
        with grpc.insecure_channel(server.address) as channel:
            silent = [
                open_silent(channel, path)
                for path in (PREDICT, CHECK, WATCH, REFLECT, STATUS)
                for _ in range(272)
            ]
            assert is_healthy(channel)
            assert predict(channel) == [5]
            assert not any(call.done() for call in silent)
            assert server.in_flight == 0


def test_idle_streams_stop_nobody(counting):
    with Server(counting, max_requests=2) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(300)]
            assert {next(watch).status for watch in watches} == {1}
            assert is_healthy(channel)
            assert predict(channel) == [5]


def test_health_is_answered_while_all_places_are_taken(counting, connect):
    with Server(counting, max_requests=1) as server:
        running = connect(server).Predict.future(count_request(0, steps=ENDLESS))
        wait_until(lambda: server.in_flight)
        with grpc.insecure_channel(server.address) as channel:
            assert is_healthy(channel)
        running.cancel()


@pytest.mark.parametrize("path", [PREDICT, CHECK, WATCH, REFLECT, STATUS])
def test_silent_calls_end_and_are_counted(counting, open_silent, path):
    with Server(counting, metrics_port=0, message_seconds=0.1) as server:
        with grpc.insecure_channel(server.address) as channel:
            silent = [open_silent(channel, path) for _ in range(5)]
            assert {call.code() for call in silent} == {grpc.StatusCode.DEADLINE_EXCEEDED}
            assert silent[0].details() == "nothing came from the client within 0.1 seconds"
        method = path.rpartition("/")[2]
        wait_until(lambda: requests(server, method, "DEADLINE_EXCEEDED") == 5)


def test_too_many_silent_calls_end_the_longest(counting, open_silent, monkeypatch):
    monkeypatch.setattr(calls, "MAX_SILENT_CALLS", 3)
    with Server(counting) as server, grpc.insecure_channel(server.address) as channel:
        silent = [open_silent(channel, PREDICT) for _ in range(4)]
        wait_until(lambda: any(call.done() for call in silent))
        assert [call.code() for call in silent if call.done()] == [
            grpc.StatusCode.RESOURCE_EXHAUSTED
        ]
        assert is_healthy(channel)


def test_a_server_that_stops_waits_for_no_silent_call(counting, open_silent):
    server = Server(counting)
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        silent = [open_silent(channel, path) for path in (PREDICT, CHECK, REFLECT)]
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        # Without an end: only the calls themselves can end before it.
        server.stop(grace=10**6)
        assert {call.code() for call in silent} == {grpc.StatusCode.UNAVAILABLE}
        assert [told.status for told in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]


def test_a_call_that_ends_without_a_message_is_told_and_counted(counting):
    with Server(counting, metrics_port=0) as server:
        with grpc.insecure_channel(server.address) as channel:
            call = channel.stream_unary(PREDICT).future(iter([]))
            assert call.code() == grpc.StatusCode.INTERNAL
            assert call.details() == "the call ended without a message"
        wait_until(lambda: requests(server, "Predict", "INTERNAL") == 1)


@pytest.mark.parametrize(
    "path, method", [(PREDICT, "Predict"), (CHECK, "Check"), (STATUS, "GetModelStatus")]
)
def test_what_is_no_message_is_told_and_counted(counting, path, method):
    with Server(counting, metrics_port=0) as server:
        with grpc.insecure_channel(server.address) as channel:
            call = channel.unary_unary(path).future(b"\xff\xff")
            assert call.code() == grpc.StatusCode.INTERNAL
            assert "deserializing" in call.details()
            assert is_healthy(channel)
        wait_until(lambda: requests(server, method, "INTERNAL") == 1)


@pytest.mark.parametrize(
    "path, method",
    [
        ("/tensorflow.serving.PredictionService/Regress", "Regress"),
        ("/tensorflow.serving.PredictionService/MultiInference", "MultiInference"),
        ("/tensorflow.serving.ModelService/HandleReloadConfigRequest", "HandleReloadConfigRequest"),
        ("/tensorflow.serving.PredictionService/Guess", "unknown"),
        ("/made.up.Service/Predict", "unknown"),
    ],
)
def test_calls_of_other_methods_are_counted(counting, path, method):
    with Server(counting, metrics_port=0) as server:
        with grpc.insecure_channel(server.address) as channel:
            call = channel.unary_unary(path).future(b"")
            assert call.code() == grpc.StatusCode.UNIMPLEMENTED
        wait_until(lambda: requests(server, method, "UNIMPLEMENTED") == 1)


def test_a_message_above_the_limit_is_counted(counting):
    with Server(counting, metrics_port=0, max_message_bytes=1000) as server:
        with grpc.insecure_channel(server.address) as channel:
            call = channel.unary_unary(PREDICT).future(bytes(2000))
            assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        wait_until(lambda: requests(server, "Predict", "CANCELLED") == 1)


def test_an_answer_above_the_limit_is_refused_and_counted(counting, connect):
    with Server(counting, metrics_port=0, max_message_bytes=300) as server:
        # One value stands for a hundred in the request, but not in the answer.
        request = count_request(1)
        for tensor in request.inputs.values():
            tensor.tensor_shape.dim[0].size = 100
        assert request.ByteSize() < 300
        call = connect(server).Predict.future(request)
        assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        wait_until(lambda: requests(server, "Predict", "RESOURCE_EXHAUSTED", "igpt") == 1)


def test_reflection_answers_a_client_that_thinks(counting):
    """A stream may wait between two requests."""
    with Server(counting) as server, grpc.insecure_channel(server.address) as channel:
        asked = threading.Event()

        def questions():
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            asked.wait()
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.Such")

        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            questions(), timeout=30
        )
        assert next(answers).list_services_response.service
        asked.set()
        assert next(answers).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
