"""Addresses, proxies, TLS, and who shares a connection."""

import asyncio
import pathlib
import sys
import threading

import pytest

from igpt_keras import InputError
from serving.client import TLS, AsyncClient, Client, RetryPolicy, ServingError
from tests.serving.rest_client.asking import IMAGE, PREDICT, both

CERTIFICATES = pathlib.Path(__file__).parents[2] / "fixtures" / "tls"


def test_threads_and_tasks_share_a_client(server):
    with Client(server.address) as client:
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.features(IMAGE)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 8

    async def run():
        async with AsyncClient(server.address) as other:
            return await asyncio.gather(*(other.features(IMAGE) for _ in range(8)))

    answers += asyncio.run(run())
    assert all(answer.tolist() == [[0.5, 1.0, 2.0]] for answer in answers)


@both
def test_the_proxy_of_the_environment_is_asked(server, ask, monkeypatch):
    server.reply = lambda url: server.replies[url.removeprefix("http://model.example:8501")]
    monkeypatch.setenv("http_proxy", server.address)
    assert ask("http://model.example:8501").shape == (1, 3)
    assert server.requests[-1].path == f"http://model.example:8501{PREDICT}"
    assert server.requests[-1].headers["Host"] == "model.example:8501"


@pytest.fixture(params=[None, CERTIFICATES / "ca.pem"], ids=["any client", "known clients"])
def encrypted(request, server):
    server.encrypt(CERTIFICATES / "named.pem", CERTIFICATES / "named.key", request.param)
    return server.address, request.param is not None


@both
def test_connections_are_encrypted(encrypted, ask):
    address, asks_for_certificate = encrypted
    trusted = {"root_certificates": CERTIFICATES / "ca.pem", "server_name": "images.example"}
    own = {
        "client_certificate": CERTIFICATES / "client.pem",
        "client_key": CERTIFICATES / "client.key",
    }
    options = {"retries": RetryPolicy(attempts=1), "timeout": 20}
    assert ask(address, tls=TLS(**trusted, **own), **options).shape == (1, 3)
    refused = [{"server_name": "images.example"}, {"root_certificates": CERTIFICATES / "ca.pem"}]
    if asks_for_certificate:
        refused.append(trusted)
    else:
        assert ask(address, tls=TLS(**trusted), **options).shape == (1, 3)
    for tls in (None, *(TLS(**settings) for settings in refused)):
        with pytest.raises(ServingError, match="UNAVAILABLE"):
            ask(address, tls=tls, **options)
    with pytest.raises(ServingError, match="UNAVAILABLE"):
        ask(address.replace("https", "http"), **options)


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_settings_of_tls_are_checked(client, tmp_path):
    with pytest.raises(InputError, match='tls goes with an address "https://host:port", got'):
        client("http://localhost:1", tls=TLS())
    missing, other = tmp_path / "missing.pem", tmp_path / "other.pem"
    other.write_text("no certificate")
    with pytest.raises(FileNotFoundError, match="missing.pem"):
        client("https://localhost:1", tls=TLS(missing))
    with pytest.raises(FileNotFoundError, match="missing.pem"):
        client("https://localhost:1", tls=TLS(None, CERTIFICATES / "client.pem", missing))
    with pytest.raises(InputError, match="root_certificates must be PEM files, got .*other.pem"):
        client("https://localhost:1", tls=TLS(other))
    with pytest.raises(InputError, match="client_key must be PEM files, got .*other.pem"):
        client("https://localhost:1", tls=TLS(None, other, CERTIFICATES / "client.key"))


@pytest.mark.parametrize(
    "address",
    ["http://localhost", "http://localhost:1/", "https://[::1]:8501", "http://10.0.0.7:65535"],
)
def test_addresses_of_rest_are_taken(address):
    with Client(address) as client:
        assert client.address == address


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_host_that_cannot_be_is_refused(client):
    with pytest.raises(InputError, match="address must name a host, got 'http://.1.:1'"):
        client("http://[1]:1")


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_without_the_library_of_http_the_extra_is_named(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(InputError, match=r"httpx2 is not installed: .*\[serve\]"):
        client("http://localhost:1")
