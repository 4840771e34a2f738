"""What a server starts with, and where it listens."""

import shutil
import socket

import grpc
import pytest

from igpt_keras import InputError
from serving.server import Server
from serving.server.saved_model import SavedModel
from tests.serving.server.conftest import count_request, counted, refused, save_counting_model


def test_the_newest_version_is_served_under_the_given_name(counting, tmp_path, connect):
    shutil.copytree(counting / "1", tmp_path / "9")
    save_counting_model(tmp_path, 10)
    with Server(tmp_path, model_name="mine") as server:
        assert server.versions == {"mine": [10]}
        response = connect(server).Predict(count_request(0, name="mine"), timeout=30)
    assert response.model_spec.version.value == 10
    assert counted(response) == [10]


def test_a_stopped_server_is_gone_and_its_port_free(counting):
    with Server(counting) as server:
        host, port = server.address.split(":")
        assert host == "127.0.0.1"
        socket.create_connection((host, int(port)), timeout=30).close()
    server.wait()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=30)
    with Server(counting, port=int(port)) as again:
        assert again.address == server.address


def test_a_port_in_use_is_an_error(counting):
    with Server(counting) as server:
        port = int(server.address.split(":")[1])
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            Server(counting, port=port).start()


def test_a_port_in_use_by_anything_is_an_error(counting):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            Server(counting, port=port).start()


def test_an_unknown_host_is_an_error(counting):
    with pytest.raises(OSError, match="cannot listen on no.such.host.invalid:0"):
        Server(counting, host="no.such.host.invalid").start()


@pytest.mark.parametrize("port", [-1, 65_536])
def test_an_impossible_port_is_an_error(counting, port):
    with pytest.raises(InputError, match=f"port must lie in 0…65535 .*, got {port}"):
        Server(counting, port=port)


def test_a_fault_of_the_server_is_internal_and_told_without_details(
    counting, connect, monkeypatch, caplog
):
    def fail(*arguments):
        raise RuntimeError("a secret")

    monkeypatch.setattr(SavedModel, "run", fail)
    with Server(counting) as server:
        code, message = refused(connect(server).Predict, count_request(0))
    assert code == grpc.StatusCode.INTERNAL
    assert message.startswith("internal error")
    assert "a secret" in caplog.text


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Server(tmp_path / "nowhere")


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a directory"):
        Server(tmp_path / "file")


def test_an_empty_directory_is_an_error(tmp_path):
    (tmp_path / "latest").mkdir()
    with pytest.raises(InputError, match=f"{tmp_path} holds no version"):
        Server(tmp_path)


def test_a_version_without_a_model_is_an_error(tmp_path):
    (tmp_path / "3").mkdir()
    with pytest.raises(InputError, match=f"{tmp_path / '3'} is not a SavedModel"):
        Server(tmp_path)


@pytest.mark.parametrize(
    "damaged", ["saved_model.pb", "variables/variables.index", "variables/variables.data-*"]
)
def test_a_damaged_version_is_an_error(counting, tmp_path, damaged):
    shutil.copytree(counting / "1", tmp_path / "1")
    (path,) = (tmp_path / "1").glob(damaged)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=f"{tmp_path / '1'} is not a SavedModel"):
        Server(tmp_path)


@pytest.mark.parametrize("number", [2**63, 10**200])
def test_a_number_beyond_int64_is_no_version(counting, tmp_path, number):
    for version in (1, number):
        shutil.copytree(counting / "1", tmp_path / str(version))
    with Server(tmp_path) as server:
        assert server.versions == {"igpt": [1]}


def test_the_largest_version(counting, tmp_path, connect):
    shutil.copytree(counting / "1", tmp_path / str(2**63 - 1))
    with Server(tmp_path) as server:
        answer = connect(server).Predict(count_request(0), timeout=30)
    assert answer.model_spec.version.value == 2**63 - 1
