import functools
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request

import grpc
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.server import BatchingParameters, Server
from serving.server.monitoring import MAX_METRICS_CONNECTIONS
from tests.serving.server.conftest import (
    count_request,
    counted,
    metric,
    refused,
    scrape,
    scrape_when_counted,
    wait_until,
)


@pytest.fixture
def server(counting):
    batching = BatchingParameters(max_batch_size=4, batch_timeout_micros=0)
    with Server(counting, metrics_port=0, batching=batching) as server:
        yield server


def test_metrics(server, connect):
    stub = connect(server)
    for values in ([1], [2, 3, 4]):
        stub.Predict(count_request(*values), timeout=30)
    refused(stub.Predict, count_request(-1))
    metrics = scrape_when_counted(server, 3)
    labels = {"model": "igpt", "signature": "serving_default"}
    assert (
        metrics[metric("igpt_serving_requests_total", **labels, method="Predict", status="OK")] == 2
    )
    assert (
        metrics[
            metric(
                "igpt_serving_requests_total", **labels, method="Predict", status="INVALID_ARGUMENT"
            )
        ]
        == 1
    )
    assert metrics[metric("igpt_serving_request_seconds_count", **labels, method="Predict")] == 3
    assert (
        metrics[
            metric("igpt_serving_request_seconds_bucket", **labels, method="Predict", le="+Inf")
        ]
        == 3
    )
    assert metrics[metric("igpt_serving_batch_examples_count", **labels)] == 3
    assert metrics[metric("igpt_serving_batch_examples_sum", **labels)] == 5
    assert metrics[metric("igpt_serving_queued_examples", **labels, version="1")] == 0
    assert metrics[metric("igpt_serving_loaded_version", model="igpt", version="1")] == 1
    assert metrics[("process_resident_memory_bytes",)] > 0


def test_names_made_up_leave_no_time_series_behind(server, connect):
    stub = connect(server)

    def ask(number):
        refused(stub.Predict, count_request(1, name=f"model{number}"))
        request = count_request(1)
        request.model_spec.signature_name = f"signature{number}"
        refused(stub.Predict, request)
        return scrape_when_counted(server, 2 * (number + 1)).keys()

    first = ask(0)
    assert all(ask(number) == first for number in range(1, 4))
    assert not any("model0" in str(name) or "signature0" in str(name) for name in first)


def test_metrics_have_one_path(server):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(server.metrics_address + "/more", timeout=30)
    assert caught.value.code == 404


def test_the_metrics_port_is_free_when_the_server_has_stopped(counting):
    with Server(counting, metrics_port=0) as server:
        assert server.metrics_address.endswith("/monitoring/prometheus/metrics")
        port = urllib.parse.urlparse(server.metrics_address).port
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            Server(counting, metrics_port=port).start()
    with Server(counting, metrics_port=port, metrics_path="/m") as server:
        assert server.metrics_address == f"http://127.0.0.1:{port}/m"
        assert scrape(server)


def test_metrics_under_tensorflow_servings_names(server, connect):
    """Names and labels are those of its monitoring page (servables/tensorflow/util.cc)."""
    stub = connect(server)
    for values in ([1], [2, 3, 4]):
        stub.Predict(count_request(*values), timeout=30)
    refused(stub.Predict, count_request(-1))
    metrics = scrape_when_counted(server, 3)
    count = functools.partial(metric, ":tensorflow:serving:request_count", model_name="igpt")
    assert metrics[count(status="OK")] == 2
    assert metrics[count(status="INVALID_ARGUMENT")] == 1
    labels = {"model_name": "igpt", "API": "Predict", "entrypoint": "GRPC"}
    assert metrics[metric(":tensorflow:serving:request_latency_count", **labels)] == 2
    microseconds = metrics[metric(":tensorflow:serving:request_latency_sum", **labels)]
    ours = {"model": "igpt", "signature": "serving_default", "method": "Predict"}
    seconds = metrics[metric("igpt_serving_request_seconds_sum", **ours)]
    assert 0 < microseconds / 1e6 < seconds


def test_ipv6_with_metrics(counting):
    with Server(counting, host="::1", metrics_port=0) as server:
        assert server.address.startswith("[::1]:")
        assert server.metrics_address.startswith("http://[::1]:")
        with grpc.insecure_channel(server.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert counted(stub.Predict(count_request(1), timeout=30)) == [2]
        assert scrape(server)


def test_metrics_have_their_own_host(counting):
    with Server(counting, host="::1", metrics_host="127.0.0.1", metrics_port=0) as server:
        assert server.address.startswith("[::1]:")
        assert server.metrics_address.startswith("http://127.0.0.1:")
        assert scrape(server)


@pytest.mark.slow
def test_connections_that_ask_for_nothing_leave_threads_for_others(counting):
    with Server(counting, metrics_port=0) as server:
        port = urllib.parse.urlparse(server.metrics_address).port
        before = threading.active_count()
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        # The server has taken the last one when it has closed it, as those before.
        assert idle[-1].recv(1) == b""
        assert threading.active_count() - before <= MAX_METRICS_CONNECTIONS
        for connection in idle:
            connection.close()
        wait_until(lambda: is_scraped(server))


def is_scraped(server):
    try:
        return bool(scrape(server))
    except OSError:
        return False
