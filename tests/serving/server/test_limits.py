"""What a server does for safety: sizes, places, deadlines and cancelled calls."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from igpt_keras import InputError
from serving.server import BatchingParameters, Server
from tests.serving.server.conftest import (
    ENDLESS,
    count_request,
    counted,
    metric,
    refused,
    scrape,
    wait_until,
)

ALONE = BatchingParameters(max_batch_size=1, max_enqueued_batches=1, batch_timeout_micros=0)


LABELS = {"model": "igpt", "signature": "serving_default"}


def batches(server):
    """How many batches have begun."""
    return scrape(server).get(metric("igpt_serving_batch_examples_count", **LABELS), 0)


def start_endless(stub, server, timeout=None):
    """A call whose batch runs, and does not end."""
    before = batches(server)
    call = stub.Predict.future(count_request(0, steps=ENDLESS), timeout=timeout)
    wait_until(lambda: batches(server) > before)
    return call


def test_a_cancelled_call_stops_while_it_runs(counting, connect):
    with Server(counting, batching=ALONE, metrics_port=0) as server:
        stub = connect(server)
        call = start_endless(stub, server)
        call.cancel()
        # There is one thread for batches, so this is answered only if the other has ended.
        assert counted(stub.Predict(count_request(0), timeout=30)) == [1]


def test_a_deadline_stops_a_call_while_it_runs(counting, connect):
    with Server(counting, batching=ALONE) as server:
        stub = connect(server)
        code, _ = refused(stub.Predict, count_request(0, steps=ENDLESS), timeout=0.2)
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert counted(stub.Predict(count_request(0), timeout=30)) == [1]


def test_a_batch_goes_on_for_the_client_that_still_waits(counting, connect):
    pair = BatchingParameters(max_batch_size=2, batch_timeout_micros=10**8)
    with Server(counting, batching=pair, metrics_port=0) as server:
        stub = connect(server)
        steps = 300_000
        gone = stub.Predict.future(count_request(5, steps=steps), timeout=60)
        waits = stub.Predict.future(count_request(6, steps=steps), timeout=60)
        wait_until(lambda: batches(server) == 1)
        gone.cancel()
        assert counted(waits.result()) == [7]


def test_a_full_queue_is_exhausted_and_cancelled_calls_leave_it(counting, connect):
    with Server(counting, batching=ALONE, metrics_port=0) as server:
        stub = connect(server)
        running = start_endless(stub, server)
        waiting = stub.Predict.future(count_request(1))
        queued = metric("igpt_serving_queued_examples", **LABELS, version="1")
        wait_until(lambda: scrape(server)[queued] == 1)
        code, message = refused(stub.Predict, count_request(2))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "batch scheduling queue to which this task was submitted is full" in message
        waiting.cancel()
        running.cancel()
        assert counted(stub.Predict(count_request(2), timeout=30)) == [3]


def test_a_large_batch_does_not_enter_a_small_queue(counting, connect):
    with Server(counting, batching=ALONE) as server:
        code, _ = refused(connect(server).Predict, count_request(1, 2))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


def test_requests_at_the_same_time_are_limited(counting, connect):
    with Server(counting, max_requests=1, metrics_port=0) as server:
        stub = connect(server)
        running = start_endless(stub, server)
        assert refused(stub.Predict, count_request(1)) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "1 requests are being answered already",
        )
        running.cancel()
        wait_until(lambda: not server.in_flight)
        assert counted(stub.Predict(count_request(1), timeout=30)) == [2]


def test_large_messages_are_exhausted(counting, connect):
    with Server(counting, max_message_bytes=10_000) as server:
        stub = connect(server)
        code, message = refused(stub.Predict, count_request(*range(2000)))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in message
        assert counted(stub.Predict(count_request(1), timeout=30)) == [2]


def test_a_message_is_measured_after_decompression(counting):
    with Server(counting, max_message_bytes=100_000) as server:
        with grpc.insecure_channel(server.address, compression=grpc.Compression.Gzip) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "igpt"
            zeros = tf.make_tensor_proto(np.zeros(1_000_000, np.float32))
            request.inputs["value"].CopyFrom(zeros)
            code, _ = refused(stub.Predict, request)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_refusal_is_short_whatever_the_request_says(counting, connect):
    with Server(counting) as server:
        request = count_request(1)
        request.model_spec.signature_name = "x" * 1_000_000
        code, message = refused(connect(server).Predict, request)
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert message.startswith('Serving signature key "xxx')
    assert len(message) <= 1024


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"max_requests": 0}, "max_requests must be at least 1, got 0"),
        ({"max_message_bytes": 0}, "max_message_bytes must be at least 1, got 0"),
        ({"message_seconds": 0}, "message_seconds must be above 0, got 0"),
        ({"poll_seconds": 0}, "poll_seconds must be above 0, got 0"),
        ({"metrics_port": 65_536}, "metrics_port must lie in 0…65535"),
        ({"model_config_file": "models.config"}, "one of directory and model_config_file"),
    ],
)
def test_settings_are_checked(counting, settings, message):
    with pytest.raises(InputError, match=message):
        Server(counting, **settings)
