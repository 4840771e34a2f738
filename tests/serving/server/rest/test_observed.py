"""Log, metrics and TLS of REST, which are those of gRPC."""

import json
import logging
import pathlib
import ssl

import pytest
import requests

from serving import Server
from serving.server.certificates import read_credentials
from tests.serving.server.conftest import metric, scrape, scrape_when_counted, wait_until
from tests.serving.server.rest.conftest import ask, connected
from tests.serving.server.test_certificates import make_certificate

TLS = pathlib.Path(__file__).parents[3] / "fixtures" / "tls"
GOOD = '{"instances": [{"value": 1, "steps": 0}, {"value": 2, "steps": 0}]}'


def entries(caplog):
    return [record.fields for record in caplog.records if hasattr(record, "fields")]


def test_requests_are_lines_of_the_log_and_series(counting, caplog):
    caplog.set_level(logging.INFO, logger="serving")
    with Server(counting, rest_port=0, metrics_port=0) as server:
        models = f"{server.rest_address}/v1/models"
        requests.post(f"{models}/igpt:predict", data=GOOD, timeout=30)
        requests.post(f"{models}/igpt:predict", data="{", timeout=30)
        requests.get(f"{models}/igpt", timeout=30)
        requests.get(f"{models}/a%0Ab/metadata", timeout=30)
        ask(server.rest_address, "no HTTP\r\n\r\n")
        requests.get(f"{server.rest_address}/made/up", timeout=30)
        metrics = scrape_when_counted(server, calls=6)
    predict, broken, status, metadata, no_http, made_up = entries(caplog)
    assert predict["peer"].startswith("ipv4:127.0.0.1:")
    assert predict["seconds"] > 0
    expected = {
        "method": "Predict",
        "entrypoint": "REST",
        "bytes": len(GOOD),
        "model": "igpt",
        "version": 1,
        "signature": "serving_default",
        "examples": 2,
        "batch_size": 2,
        "status": "OK",
        "error": "",
    }
    assert {key: predict[key] for key in expected} == expected
    assert (broken["method"], broken["status"]) == ("Predict", "INVALID_ARGUMENT")
    assert (status["method"], status["status"]) == ("GetModelStatus", "OK")
    assert (metadata["method"], metadata["status"]) == ("GetModelMetadata", "NOT_FOUND")
    assert metadata["error"] == "Servable not found for request: Latest(a\nb)"
    assert (no_http["method"], no_http["status"]) == ("unknown", "INVALID_ARGUMENT")
    assert (made_up["method"], made_up["status"]) == ("unknown", "NOT_FOUND")
    name = ":tensorflow:serving:request_latency_count"
    assert metrics[metric(name, model_name="igpt", API="Predict", entrypoint="REST")] == 1
    requests_total = metric(
        "igpt_serving_requests_total",
        method="Predict",
        model="igpt",
        signature="serving_default",
        status="OK",
    )
    assert metrics[requests_total] == 1


def test_a_client_that_has_gone_is_told(counting, caplog):
    caplog.set_level(logging.INFO, logger="serving")
    with Server(counting, rest_port=0) as server:
        with connected(server.rest_address) as connection:
            connection.sendall(b"POST /v1/models/igpt:predict HTTP/1.1\r\nHost: localhost\r\n")
            connection.sendall(b"Content-Length: 10\r\n\r\n{")
            wait_until(lambda: server._site._active)
        wait_until(lambda: entries(caplog))
    (entry,) = entries(caplog)
    assert (entry["status"], entry["error"]) == ("CANCELLED", "the client has gone")


def test_metrics_on_the_port_of_rest(counting):
    with Server(counting, rest_port=0) as probe:
        port = int(probe.rest_address.rpartition(":")[2])
    with Server(counting, rest_port=port, metrics_port=port) as server:
        assert server.metrics_address == f"{server.rest_address}/monitoring/prometheus/metrics"
        requests.get(f"{server.rest_address}/v1/models/igpt", timeout=30)
        metrics = scrape(server)
        loaded = metric("igpt_serving_loaded_version", model="igpt", version="1")
        assert metrics[loaded] == 1
        answer = ask(
            server.rest_address,
            "GET /monitoring/prometheus/metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        )
        assert answer.status == 403


def test_rest_has_its_own_host_and_port(counting):
    with Server(counting, rest_port=0, rest_host="::1") as server:
        assert server.rest_address.startswith("http://[::1]:")
        assert requests.get(f"{server.rest_address}/v1/models/igpt", timeout=30).ok
        port = int(server.rest_address.rpartition(":")[2])
        with pytest.raises(OSError, match=f"cannot listen on \\[::1\\]:{port}: "):
            Server(counting, rest_port=port, rest_host="::1").start()
    with Server(counting) as server:
        assert server.rest_address is None


def verified(server, ca, client=None):
    return requests.get(
        f"{server.rest_address}/v1/models/igpt", verify=str(ca), cert=client, timeout=30
    ).status_code


def test_tls(counting, caplog):
    caplog.set_level(logging.INFO, logger="serving")
    files = [TLS / name for name in ("server.pem", "server.key", "ca.pem")]
    with Server(counting, rest_port=0, credentials=read_credentials(*files[:2])) as server:
        assert server.rest_address.startswith("https://")
        assert verified(server, TLS / "ca.pem") == 200
        origin = server.rest_address
        answer = requests.get(
            f"{origin}/v1/models/igpt",
            verify=TLS / "ca.pem",
            headers={"Origin": origin},
            timeout=30,
        )
        assert answer.status_code == 200
        with connected(server.rest_address) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"HTTP" not in connection.recv(100)
        wait_until(lambda: entries(caplog)[-1]["status"] == "UNAUTHENTICATED")
    with Server(counting, rest_port=0, credentials=read_credentials(*files)) as server:
        client = (str(TLS / "client.pem"), str(TLS / "client.key"))
        assert verified(server, TLS / "ca.pem", client) == 200
        with pytest.raises((requests.exceptions.SSLError, requests.ConnectionError)):
            verified(server, TLS / "ca.pem")


def test_a_silent_tls_client_ends(counting):
    credentials = read_credentials(TLS / "server.pem", TLS / "server.key")
    with Server(counting, rest_port=0, credentials=credentials, message_seconds=0.5) as server:
        with connected(server.rest_address) as connection:
            assert connection.recv(100) == b""
        context = ssl.create_default_context(cafile=str(TLS / "ca.pem"))
        with connected(server.rest_address) as connection:
            with context.wrap_socket(connection, server_hostname="localhost") as wrapped:
                assert wrapped.recv(100) == b""


def test_a_renewed_certificate_holds_for_new_connections(counting, tmp_path):
    make_certificate(tmp_path, days=2)
    before = tmp_path / "before.pem"
    before.write_bytes((tmp_path / "server.pem").read_bytes())
    credentials = read_credentials(tmp_path / "server.pem", tmp_path / "server.key")
    with Server(counting, rest_port=0, credentials=credentials) as server:
        assert verified(server, before) == 200
        make_certificate(tmp_path, days=3)
        assert verified(server, tmp_path / "server.pem") == 200
        with pytest.raises(requests.exceptions.SSLError):
            verified(server, before)


def test_the_log_escapes_what_a_client_writes(counting, caplog):
    from serving.server.log import JsonFormatter

    caplog.set_level(logging.INFO, logger="serving")
    with Server(counting, rest_port=0) as server:
        ask(
            server.rest_address,
            "GET /v1/models/%1b%5b31m%0d%0a%7f HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
    (record,) = [record for record in caplog.records if hasattr(record, "fields")]
    line = JsonFormatter().format(record)
    assert line.isprintable() and line.isascii()
    assert json.loads(line)["error"].endswith("model \x1b[31m\r\n\x7f")
