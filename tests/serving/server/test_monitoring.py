import json
import logging
import urllib.error
import urllib.parse
import urllib.request

import grpc
import pytest

from serving.server import BatchingParameters, Server
from serving.server.monitoring import JsonFormatter
from tests.serving.server.conftest import count_request, metric, refused, scrape


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
    metrics = scrape(server)
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
        return scrape(server).keys()

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


def test_every_request_is_one_line_of_json(server, connect, caplog):
    stub = connect(server)
    with caplog.at_level(logging.INFO, logger="serving"):
        stub.Predict(count_request(1, 2), timeout=30)
        refused(stub.Predict, count_request(-1, version=1))
        refused(stub.Predict, count_request(1, name="née\n"))
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert not any("\n" in line for line in lines)
    good, bad, unknown = map(json.loads, lines)
    assert good["message"] == "request"
    assert good["peer"].startswith("ipv4:127.0.0.1:")
    assert good["bytes"] == count_request(1, 2).ByteSize()
    assert good["seconds"] >= good["queue_seconds"] >= 0
    assert {
        "method": "Predict",
        "model": "igpt",
        "version": 1,
        "status": "OK",
    }.items() <= good.items()
    assert {"signature": "serving_default", "examples": 2, "batch_size": 2}.items() <= good.items()
    assert bad["status"] == grpc.StatusCode.INVALID_ARGUMENT.name
    assert "value must be at least 0" in bad["error"]
    assert {"model": "", "status": "NOT_FOUND"}.items() <= unknown.items()
    assert "née" in unknown["error"]
