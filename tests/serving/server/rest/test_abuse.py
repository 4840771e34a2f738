"""Ten thousand bad requests over HTTP, and a good one after each hundred."""

import base64
import contextlib
import gzip
import json
import struct
from concurrent import futures

import grpc
import numpy as np
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.server.services import QUESTION_THREADS
from tests.serving.server.conftest import wait_until
from tests.serving.server.rest.conftest import Answer, connected
from tests.serving.server.test_abuse import (
    A_ROUND,
    MAX_REQUESTS,
    MESSAGE_LIMIT,
    ROUNDS,
    WARM_UP,
    BadRequests,
    ServerProcess,
    bomb,
)

MODEL = "/v1/models/igpt"
# How long a client may take for a head and for a body; slow ones are waited for.
MESSAGE_SECONDS = 2
IDLE_CONNECTIONS = 200
# How long the answer is waited for to what may be the beginning of something.
UNDUE_SECONDS = 0.3
# 200: a changed bit may leave an image or a number that can be used.
PROPER = {200, 400, 403, 404, 429, 501, 504}
TRAVERSALS = (
    "/../../../../etc/passwd",
    "/..%2f..%2f..%2fetc%2fpasswd",
    "/v1/models/..%2F..%2F..%2Fetc%2Fpasswd",
    "/v1/models/igpt/versions/../../../../etc/passwd",
    "//etc/passwd",
    "/%00",
    "/v1/models/%2e%2e/metadata",
    "/static/..%5c..%5cboot.ini",
    "http://localhost/../../etc/passwd",
    "file:///etc/passwd",
    "*",
)


class BadHttp:
    """Bytes that a server should survive, one after another from a seed.

    Each is (what to send, whether an answer is due).
    """

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.images = BadRequests(seed).images
        self.expanding = gzip.compress(bytes(100 * MESSAGE_LIMIT))
        self.kinds = [getattr(self, name) for name in dir(self) if name.startswith("bad_")]

    def draw(self):
        return self.pick(self.kinds)()

    def pick(self, values):
        return values[self.random.integers(len(values))]

    def bytes(self, most):
        return self.random.bytes(int(self.random.integers(0, most)))

    def post(self, body, path=f"{MODEL}:predict", host="localhost", headers=""):
        body = body if isinstance(body, bytes) else body.encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body, True

    def get(self, path, host="localhost", headers=""):
        return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode("latin-1"), True

    def instance(self, **changed):
        inputs = {
            "image_bytes": {"b64": base64.b64encode(self.images["PNG"]).decode()},
            "keep_rows": 3,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "seed": int(self.random.integers(1000)),
        }
        return {**inputs, **changed}

    def good(self):
        return json.dumps({"signature_name": "complete", "instances": [self.instance()]})

    def with_image(self, content):
        image = {"b64": base64.b64encode(content).decode()}
        name = self.pick(["complete", "classify_images", "features", "score", "classify"])
        if name == "classify":
            body = {"signature_name": name, "examples": [{"image/encoded": image}]}
            return self.post(json.dumps(body), f"{MODEL}:classify")
        if name == "complete":
            body = {"signature_name": name, "instances": [self.instance(image_bytes=image)]}
        else:
            body = {"signature_name": name, "inputs": [image]}
        return self.post(json.dumps(body))

    def bad_bytes(self):
        return self.bytes(3000) + b"\r\n\r\n", False

    def bad_head(self):
        text, _ = self.post(self.good())
        content = bytearray(text)
        for _ in range(self.random.integers(1, 5)):
            content[self.random.integers(80)] = self.random.integers(256)
        return bytes(content), False

    def bad_headers(self):
        return self.get(
            MODEL,
            headers=self.pick(
                [
                    "X: y\r\n" * 500,
                    f"X: {'y' * 100_000}\r\n",
                    "Host: localhost\r\n",
                    "Content-Length: -1\r\n",
                    "Content-Length: 99999999999999999999999\r\n",
                    "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                    "Transfer-Encoding: gzip, chunked, chunked\r\n",
                    "Upgrade: websocket\r\nConnection: Upgrade\r\n",
                    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n",
                    "Expect: 200-maybe\r\n",
                    " folded\r\n",
                    "no colon\r\n",
                    "X\x00Y: z\r\n",
                ]
            ),
        )[0], False

    def bad_method(self):
        method = self.pick(["PUT", "DELETE", "TRACE", "CONNECT", "PATCH", "PRI", "GETS", "get"])
        return f"{method} {MODEL} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), False

    def bad_version(self):
        version = self.pick(["HTTP/0.9", "HTTP/2.0", "HTTP/1.1.1", "", "ICY"])
        return f"GET {MODEL} {version}\r\nHost: localhost\r\n\r\n".encode(), False

    def bad_tls(self):
        return b"\x16\x03\x01" + struct.pack(">H", 500) + self.bytes(600) + b"\r\n\r\n", False

    def bad_path(self):
        return self.get(self.pick(TRAVERSALS))[0], False

    def bad_name(self):
        name = self.pick(["%0d%0aSet-Cookie:%20a", "%1b%5b31m", "%ff%fe", "x" * 7000, "%", "%zz"])
        suffix = self.pick(
            ["", "/metadata", "/versions/9", f"/versions/{'9' * 500}", "/labels/%00"]
        )
        if self.random.integers(2):
            return self.get(f"/v1/models/{name}{suffix}")
        return self.post(self.good(), f"/v1/models/{name}{suffix.replace('/metadata', '')}:predict")

    def bad_host(self):
        hosts = ["evil.example", "127.0.0.1.evil.example", "", "[::", "localhost:x@evil.example"]
        return self.get(MODEL, self.pick(hosts))

    def bad_origin(self):
        origin = self.pick(["https://evil.example", "null", "http://localhost.evil.example", "x"])
        if self.random.integers(2):
            text = self.get(MODEL, headers=f"Origin: {origin}\r\n")[0]
            return text.replace(b"GET", b"OPTIONS"), True
        return self.post(self.good(), headers=f"Origin: {origin}\r\n")

    def bad_json(self):
        content = bytearray(self.good().encode())
        for _ in range(self.random.integers(1, 5)):
            content[self.random.integers(len(content))] = self.random.integers(256)
        return self.post(bytes(content[: self.random.integers(len(content) + 1)]))

    def bad_depth(self):
        opened = self.pick(["[", '{"a":', '{"instances":[', "[[],"])
        return self.post(opened * int(self.pick([300, 5000, MESSAGE_LIMIT // 20])))

    def bad_values(self):
        many = self.pick(["1,", "[],", "{},", '"",', "null,", "1.5,"])
        return self.post('{"inputs": [' + many * (MESSAGE_LIMIT // 8) + "1]}")

    def bad_number(self):
        number = self.pick(
            ["1e999", "-1e999", "1" * 400, "9" * 5000, "NaN", "-Infinity", "1e-400", "-", "0x1"]
        )
        name = self.pick(["keep_rows", "temperature", "top_k", "top_p", "seed"])
        instance = json.dumps(self.instance(**{name: "@"})).replace('"@"', number)
        return self.post(f'{{"signature_name": "complete", "instances": [{instance}]}}')

    def bad_type(self):
        value = self.pick(
            [None, True, "a", [], {}, [[1]], {"b64": 1}, {"b64": "?"}, 1.5, -1, 2**70]
        )
        name = self.pick(sorted(self.instance()))
        instances = [self.instance(), self.instance(**{name: value})]
        if self.random.integers(2):
            instances.reverse()
        return self.post(json.dumps({"signature_name": "complete", "instances": instances}))

    def bad_members(self):
        instance = self.instance()
        for name in sorted(instance):
            if self.random.integers(2):
                del instance[name]
        body = {"instances": [instance], "signature_name": self.pick(["complete", "none", 5, None])}
        key = self.pick(["inputs", "examples", "context", "\ud800", "\x00"])
        return self.post(json.dumps({**body, key: self.pick([1, [], {}, [[]], "a"])}))

    def bad_signature(self):
        method = self.pick(["predict", "classify", "regress", "explain"])
        return self.post(self.good(), f"{MODEL}:{method}?{self.pick(['', 'a=b'])}")

    def bad_image(self):
        content = bytearray(self.pick(list(self.images.values())))
        for _ in range(self.random.integers(1, 4)):
            content[self.random.integers(len(content))] ^= 1 << self.random.integers(8)
        return self.with_image(bytes(content[: self.random.integers(len(content) + 1)]))

    def bad_dimensions(self):
        sizes = (0, 1, 30_000, 65_535, 2**20, 2**31 - 1)
        kind = self.pick(BadRequests.FORMATS)
        return self.with_image(bomb(kind, int(self.pick(sizes)), int(self.pick(sizes))))

    def bad_batch(self):
        instances = [self.instance()] * int(self.pick([9, 40, 600]))
        return self.post(json.dumps({"signature_name": "complete", "instances": instances}))

    def bad_gzip(self):
        body = self.pick(
            [
                self.expanding,
                gzip.compress(self.good().encode())[: int(self.random.integers(100))],
                self.bytes(500),
            ]
        )
        encoding = self.pick(["gzip", "gzip", "deflate", "br", "gzip, gzip"])
        return self.post(body, headers=f"Content-Encoding: {encoding}\r\n")

    def bad_size(self):
        if self.random.integers(10):
            return self.get(f"{MODEL}?{'x' * 50_000}")[0], False
        return self.post(bytes(MESSAGE_LIMIT + 1))

    def bad_length(self):
        text, _ = self.post(self.good())
        change = int(self.pick([-500, -3, 3, 10**6, 10**12]))
        length = int(text.split(b"Content-Length: ")[1].split(b"\r\n")[0])
        new = b"Content-Length: %d\r\n" % max(0, length + change)
        return text.replace(b"Content-Length: %d\r\n" % length, new), False

    def bad_chunks(self):
        head = f"POST {MODEL}:predict HTTP/1.1\r\nHost: localhost\r\n"
        body = self.pick(
            [
                b"zz\r\n",
                b"-1\r\n",
                b"5\r\nab",
                b"ffffffffffffffff\r\na",
                b"1;" + b"x" * 50_000,
                b"0\r\n",
            ]
        )
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + body, False


def exchange(url, text, due):
    """Sends bytes; returns the answer's status, None if it went or stayed silent without one."""
    received = b""
    with connected(url, timeout=60 if due else UNDUE_SECONDS) as connection:
        try:
            connection.sendall(text)
            while not complete(received) and (piece := connection.recv(65536)):
                received += piece
        except TimeoutError:
            assert not due, text[:500]
        except ConnectionError:
            # The server refuses before it has read everything.
            assert not due or len(text) > MESSAGE_LIMIT, text[:500]
    if not received:
        assert not due or len(text) > MESSAGE_LIMIT, text[:500]
        return None
    answer = Answer(received)
    if answer.status != 200:
        assert answer.error and "Traceback" not in answer.error, received
    assert b"root:" not in received
    return answer.status


def complete(received):
    head, end, body = received.partition(b"\r\n\r\n")
    return end and len(body) >= int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])


@pytest.mark.slow
def test_ten_thousand_bad_requests_over_http(exported, tmp_path):
    options = ["--rest-port", "0", "--message-seconds", str(MESSAGE_SECONDS)]
    server = ServerProcess(exported, tmp_path, *options)
    url = server.rest_address
    bad = BadHttp(seed=0)
    good = json.dumps(
        {"signature_name": "complete", "instances": [bad.instance(seed=5, keep_rows=1)]}
    )
    statuses, usages = {}, []
    _, idle_threads, idle_files = server.usage()

    def ask():
        answer = requests.post(f"{url}{MODEL}:predict", data=good, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["predictions"][0]["tokens"]

    try:
        expected = ask()
        channel = grpc.insecure_channel(server.address)
        health = health_pb2_grpc.HealthStub(channel)
        with futures.ThreadPoolExecutor(16) as threads:
            for number in range(ROUNDS):
                with contextlib.ExitStack() as stack:
                    # Some say nothing, some begin a head, some a body, and none goes on.
                    for index in range(IDLE_CONNECTIONS if number % 10 == 0 else 20):
                        begun = stack.enter_context(connected(url))
                        text, _ = bad.post(bad.good())
                        begun.sendall((b"", text[:30], text[:-10])[index % 3])
                    drawn = [bad.draw() for _ in range(A_ROUND)]
                    for status in threads.map(lambda call: exchange(url, *call), drawn):
                        statuses[status] = statuses.get(status, 0) + 1
                        assert status in PROPER | {None}
                    assert ask() == expected
                    serving = health.Check(health_pb2.HealthCheckRequest(), timeout=30).status
                    assert serving == health_pb2.HealthCheckResponse.SERVING
                wait_until(lambda: server.usage()[2] <= idle_files + 20)
                usages.append(server.usage())
        channel.close()
    finally:
        status = server.stop()
    assert status == 0
    assert sum(statuses.values()) == ROUNDS * A_ROUND
    assert statuses.keys() >= {400, 403, 404, 429}
    memory, threads, files = np.array(usages)[WARM_UP:].T
    # As over gRPC.
    assert np.median(memory[-10:]) < np.median(memory[:10]) + 30
    assert threads.max() <= idle_threads + MAX_REQUESTS + QUESTION_THREADS + 16
    assert files[-1] <= files[:10].max() + 3
    log = server.log.read_text()
    assert "Traceback" not in log and "\x1b" not in log
    assert all(isinstance(json.loads(line), dict) for line in log.splitlines())
