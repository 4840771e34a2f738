"""TLS: who may connect, and certificates that are renewed or expire."""

import logging
import pathlib
import shutil
import subprocess
import time

import grpc
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from igpt_keras import InputError
from serving.server import Server, certificates
from serving.server.certificates import read_credentials
from tests.serving.server.conftest import count_request, counted

TLS = pathlib.Path(__file__).parents[2] / "fixtures" / "tls"


def credentials(*, ca=True, client=False):
    read = {name: (TLS / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem")}
    return grpc.ssl_channel_credentials(
        read["ca.pem"] if ca else None,
        read["client.key"] if client else None,
        read["client.pem"] if client else None,
    )


def ask_over_tls(server, channel_credentials):
    with grpc.secure_channel(server.address, channel_credentials) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return counted(stub.Predict(count_request(1), timeout=30))


def test_tls(counting, connect):
    with Server(
        counting, credentials=read_credentials(TLS / "server.pem", TLS / "server.key")
    ) as server:
        assert ask_over_tls(server, credentials()) == [2]
        for untrusting in (
            lambda: ask_over_tls(server, credentials(ca=False)),
            lambda: connect(server).Predict(count_request(1), timeout=30),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                untrusting()
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_client_certificates(counting):
    with Server(
        counting,
        credentials=read_credentials(TLS / "server.pem", TLS / "server.key", TLS / "ca.pem"),
    ) as server:
        assert ask_over_tls(server, credentials(client=True)) == [2]
        with pytest.raises(grpc.RpcError) as caught:
            ask_over_tls(server, credentials())
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def make_certificate(folder, days):
    """A self-signed certificate for localhost that begins now."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        + ["-days", str(days), "-keyout", folder / "server.key", "-out", folder / "server.pem"],
        check=True,
        capture_output=True,
    )


def trusted(folder):
    return grpc.ssl_channel_credentials((folder / "server.pem").read_bytes())


def test_a_renewed_certificate_holds_for_new_connections(counting, tmp_path):
    make_certificate(tmp_path, days=2)
    before = trusted(tmp_path)
    credentials = read_credentials(tmp_path / "server.pem", tmp_path / "server.key")
    with Server(counting, credentials=credentials) as server:
        assert ask_over_tls(server, before) == [2]
        make_certificate(tmp_path, days=3)
        assert ask_over_tls(server, trusted(tmp_path)) == [2]
        with pytest.raises(grpc.RpcError):
            ask_over_tls(server, before)


def test_a_renewed_certificate_that_is_none_leaves_the_one_before(counting, tmp_path, caplog):
    for name in ("server.pem", "server.key"):
        shutil.copy(TLS / name, tmp_path)
    with Server(
        counting, credentials=read_credentials(tmp_path / "server.pem", tmp_path / "server.key")
    ) as server:
        (tmp_path / "server.pem").write_text("half a file")
        assert ask_over_tls(server, credentials()) == [2]
        (tmp_path / "server.pem").unlink()
        assert ask_over_tls(server, credentials()) == [2]
    assert "the certificate stays as it was" in caplog.text


@pytest.mark.parametrize("name, valid", [("server.pem", True), ("expired.pem", False)])
def test_an_expired_certificate_is_told(caplog, name, valid):
    with caplog.at_level(logging.ERROR, logger="serving"):
        read_credentials(TLS / name, TLS / "server.key")
    assert ("is not valid now" in caplog.text) != valid


def test_a_certificate_that_expires_while_it_serves_is_told_once(tmp_path, caplog, monkeypatch):
    make_certificate(tmp_path, days=2)
    credentials = read_credentials(tmp_path / "server.pem", tmp_path / "server.key")
    context = credentials.for_https()
    assert not caplog.text
    now = time.time()
    monkeypatch.setattr(certificates.time, "time", lambda: now + 3 * 24 * 3600)
    for _ in range(3):
        assert credentials.for_https() is context
    assert caplog.text.count("is not valid now") == 1


def test_certificates_are_checked(tmp_path):
    certificate, key, authority = (TLS / name for name in ("server.pem", "server.key", "ca.pem"))
    read_credentials(certificate, key)
    read_credentials(certificate, key, authority)
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for arguments in ((broken, key), (certificate, broken), (authority, key)):
        with pytest.raises(InputError, match="are not a certificate and its key"):
            read_credentials(*arguments)
    with pytest.raises(InputError, match="holds no certificates"):
        read_credentials(certificate, key, broken)
    with pytest.raises(FileNotFoundError):
        read_credentials(certificate, tmp_path / "none.key")
