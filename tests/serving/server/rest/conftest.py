"""Models for REST, and HTTP written by hand."""

import contextlib
import json
import re
import socket
import urllib.parse

import pytest
import tensorflow as tf

from serving import Server


def save_half_plus_two(directory, version):
    """The model of TensorFlow Serving's tests: y = x / 2 + 2, for x of any shape."""
    module = tf.Module()
    signature = tf.function(
        lambda x: {"y": x / 2 + 2},
        input_signature=[tf.TensorSpec(None, tf.float32, "x")],
    )
    module.serve = signature
    tf.saved_model.save(module, str(directory / str(version)), {"serving_default": signature})


@pytest.fixture(scope="session")
def half_plus_two(tmp_path_factory):
    """A `models.config` with the model in versions 123 and 124, the first with a label."""
    folder = tmp_path_factory.mktemp("half_plus_two")
    for version in (123, 124):
        save_half_plus_two(folder / "versions", version)
    config = folder / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "half" base_path: "{folder}/versions" '
        "model_version_policy { all {} } "
        'version_labels { key: "stable/!" value: 123 } } }'
    )
    return config


@pytest.fixture(scope="module")
def half(half_plus_two):
    with Server(model_config_file=half_plus_two, rest_port=0) as server:
        yield server


class Answer:
    """An answer as it came."""

    def __init__(self, text: bytes):
        head, _, self.body = text.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        assert status.startswith("HTTP/")
        self.status = int(status.split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in lines)

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]


@contextlib.contextmanager
def connected(url, timeout=30):
    address = urllib.parse.urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=timeout) as connection:
        yield connection


def read_answer(connection) -> Answer:
    """Reads one answer; the connection stays open if the server keeps it open."""
    text = b""
    while b"\r\n\r\n" not in text:
        piece = connection.recv(65536)
        assert piece, f"the connection ended after {text!r}"
        text += piece
    head = text.partition(b"\r\n\r\n")[0]
    length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
    while len(text) < len(head) + 4 + length:
        piece = connection.recv(65536)
        assert piece, f"the connection ended after {text!r}"
        text += piece
    return Answer(text)


def ask(url, text) -> Answer:
    """Sends bytes as they are, and reads the answer."""
    with connected(url) as connection:
        connection.sendall(text if isinstance(text, bytes) else text.encode())
        return read_answer(connection)


def post_text(path, body, headers="Host: localhost\r\n"):
    """A request, written by hand."""
    body = body if isinstance(body, bytes) else body.encode()
    head = f"POST {path} HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
