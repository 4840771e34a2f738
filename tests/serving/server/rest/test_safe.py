"""Other sites' pages, and clients that send too much, too slowly, or nothing."""

import contextlib
import gzip
import json
import socket
import time

import pytest
import requests

from igpt_keras import InputError
from serving import Server
from serving.server.rest import bodies, connections
from tests.serving.server.conftest import ENDLESS, wait_until
from tests.serving.server.rest.conftest import Answer, ask, connected, post_text, read_answer

STATUS = "GET /v1/models/igpt HTTP/1.1\r\nHost: {}\r\n{}\r\n"
PREDICT = "/v1/models/igpt:predict"
GOOD = '{"instances": [{"value": 1, "steps": 0}]}'
LONG = f'{{"instances": [{{"value": 1, "steps": {ENDLESS}}}]}}'
# Long enough for a busy machine to answer, short enough to wait for.
SECONDS = 0.5
LIMIT = 10_000


@pytest.fixture(scope="module")
def open_server(counting):
    """A server on loopback whose REST pages of one other origin may use."""
    with Server(counting, rest_port=0, cors_origins=["https://Example.com"]) as server:
        yield server


@pytest.fixture(scope="module")
def strict(counting):
    """A server that waits little and takes little."""
    with Server(
        counting, rest_port=0, message_seconds=SECONDS, max_message_bytes=LIMIT, max_requests=2
    ) as server:
        yield server


def port_of(server):
    return server.rest_address.rpartition(":")[2]


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:{port}", 200),
        ("127.1.2.3:9", 200),
        ("[::1]:{port}", 200),
        ("example.com:{port}", 403),
        ("localhost.example.com", 403),
        ("127.0.0.1.example.com", 403),
        ("192.168.0.1", 403),
        ("[::2]", 403),
        ("[::1", 403),
        ("", 403),
        ("localhost@example.com", 403),
    ],
)
def test_a_server_on_loopback_answers_to_names_of_loopback(open_server, host, status):
    host = host.format(port=port_of(open_server))
    assert ask(open_server.rest_address, STATUS.format(host, "")).status == status


def test_a_server_on_all_interfaces_answers_to_every_name(counting):
    with Server(counting, rest_port=0, rest_host="0.0.0.0") as server:
        url = f"http://127.0.0.1:{port_of(server)}"
        assert ask(url, STATUS.format("example.com", "")).status == 200
        origin = "Origin: http://evil.example\r\n"
        assert ask(url, STATUS.format("example.com", origin)).status == 403


@pytest.mark.parametrize(
    "origin, status, allowed",
    [
        ("http://localhost:{port}", 200, None),
        ("HTTP://LOCALHOST:{port}", 200, None),
        ("https://example.com", 200, "https://example.com"),
        ("https://localhost:{port}", 403, None),
        ("http://localhost", 403, None),
        ("http://127.0.0.1:{port}", 403, None),
        ("http://example.com", 403, None),
        ("https://example.com.evil.example", 403, None),
        ("null", 403, None),
        ("*", 403, None),
        ("", 403, None),
    ],
)
def test_pages_of_other_origins_are_refused(open_server, origin, status, allowed):
    port = port_of(open_server)
    header = f"Origin: {origin.format(port=port)}\r\n"
    answer = ask(open_server.rest_address, STATUS.format(f"localhost:{port}", header))
    assert answer.status == status
    assert answer.headers.get("access-control-allow-origin") == allowed
    assert answer.headers["vary"] == "origin"


def test_a_refused_page_does_not_run_anything(open_server, counting):
    headers = "Host: localhost\r\nOrigin: https://evil.example\r\n"
    answer = ask(open_server.rest_address, post_text(PREDICT, GOOD, headers))
    assert answer.status == 403
    assert answer.error == "pages of https://evil.example may not use this server"


def preflight(url, origin, host="localhost"):
    return ask(
        url,
        f"OPTIONS {PREDICT} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n"
        "Access-Control-Request-Method: POST\r\n"
        "Access-Control-Request-Headers: content-type\r\n\r\n",
    )


def test_preflights(open_server):
    answer = preflight(open_server.rest_address, "https://example.com")
    assert answer.status == 200
    # TensorFlow Serving's (AddCORSHeaders in http_rest_api_util.cc), for one origin.
    assert answer.headers["access-control-allow-origin"] == "https://example.com"
    assert answer.headers["access-control-allow-methods"] == "post, get"
    assert answer.headers["access-control-allow-headers"] == "content-type"
    assert preflight(open_server.rest_address, "https://evil.example").status == 403
    assert preflight(open_server.rest_address, "https://example.com", "evil").status == 403


def test_all_origins(counting):
    with Server(counting, rest_port=0, cors_origins=["*"]) as server:
        for answer in (
            preflight(server.rest_address, "https://any.example"),
            ask(server.rest_address, STATUS.format("localhost", "Origin: null\r\n")),
        ):
            assert answer.status == 200
            assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("origin", ["example.com", "https://example.com/", "https://", "", "a b"])
def test_origins_are_checked(counting, origin):
    with pytest.raises(InputError, match='cors_origins must be "\\*" or such as "https://exam'):
        Server(counting, rest_port=0, cors_origins=[origin])


@pytest.mark.parametrize(
    "text",
    [
        STATUS.format("localhost", ""),
        STATUS.format("evil", ""),
        "GET /else HTTP/1.1\r\nHost: localhost\r\n\r\n",
        post_text(PREDICT, "{").decode(),
        "no HTTP\r\n\r\n",
    ],
)
def test_every_answer_tells_browsers_to_do_nothing_with_it(open_server, text):
    headers = ask(open_server.rest_address, text).headers
    assert headers["content-type"] == "application/json"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["server"] == "igpt"


@pytest.mark.parametrize(
    "text",
    [
        "no HTTP\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET\r\n\r\n",
        "GET /v1/models/igpt HTTP/1.1\r\n\r\n",
        "GET /v1/models/igpt HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /v1/models/igpt HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /v1/models/igpt HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
        f"GET /{'x' * 20_000} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: localhost\r\nA: {'x' * 20_000}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: localhost\r\n{'A: b' + chr(13) + chr(10)}".ljust(10)
        + "".join(f"X-{number}: y\r\n" for number in range(100))
        + "\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
        "Transfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    ],
)
def test_what_is_no_http_is_told(open_server, text):
    with connected(open_server.rest_address) as connection:
        connection.sendall(text if isinstance(text, bytes) else text.encode())
        answer = read_answer(connection)
        assert answer.status == 400
        assert answer.error.startswith("the request is not HTTP: ")
        assert connection.recv(1) == b""


def test_bodies_in_chunks(strict):
    chunked = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    good = f"{len(GOOD):x};ext=1\r\n{GOOD}\r\n0\r\nTrailer: x\r\n\r\n"
    assert ask(strict.rest_address, chunked + good).status == 200
    assert ask(strict.rest_address, chunked + "zz\r\n").status == 400
    with connected(strict.rest_address) as connection:
        head = chunked.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n")
        connection.sendall(head.encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"zz\r\n")
        # aiohttp's parser in C does not tell who reads the body, which then does not come in time.
        assert read_answer(connection).status in (400, 504)


def test_compressed_bodies(strict):
    url = strict.rest_address
    gzipped = "Host: localhost\r\nContent-Encoding: gzip\r\n"
    for body, headers, status, error in (
        (gzip.compress(GOOD.encode()), gzipped, 200, None),
        (gzip.compress(bytes(LIMIT * 1000)), gzipped, 429, "message larger than max"),
        (gzip.compress(GOOD.encode())[:-9], gzipped, 400, "not one gzip stream"),
        (gzip.compress(GOOD.encode()) + b"more", gzipped, 400, "not one gzip stream"),
        (b"no gzip", gzipped, 400, "cannot be decompressed"),
        (b"", gzipped.replace("gzip", "br"), 400, "Content-Encoding must be gzip or identity"),
    ):
        answer = ask(url, post_text(PREDICT, body, headers))
        assert answer.status == status
        if error:
            assert error in answer.error


def test_large_bodies(strict):
    url = strict.rest_address
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\n"
    # By its announcement, before any of it is sent.
    answer = ask(url, f"{head}Content-Length: {LIMIT + 1}\r\n\r\n")
    assert (answer.status, answer.error) == (
        429,
        f"Received message larger than max ({LIMIT + 1} vs. {LIMIT})",
    )
    piece = f"{LIMIT // 2:x}\r\n{'x' * (LIMIT // 2)}\r\n"
    answer = ask(url, f"{head}Transfer-Encoding: chunked\r\n\r\n{piece * 3}")
    assert answer.status == 429
    # A client that asks first is told so before it sends.
    with connected(url) as connection:
        body = GOOD.encode()
        connection.sendall(
            f"{head}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answer(connection).status == 200


def test_slow_requests_end(strict):
    heads = ("", "GET /v1/mod", STATUS.format("localhost", "")[:-2], "POST / HTTP/1.1\r\n")
    with contextlib.ExitStack() as stack:
        begun = [stack.enter_context(connected(strict.rest_address)) for _ in (*heads, "body")]
        for connection, head in zip(begun[1:], heads, strict=True):
            connection.sendall(head.encode())
        begun[0].sendall(post_text(PREDICT, GOOD)[:-5])
        answer = read_answer(begun[0])
        for connection in begun[1:]:
            assert connection.recv(100) == b""
    assert (answer.status, answer.error) == (
        504,
        f"nothing came from the client within {SECONDS} seconds",
    )


def test_a_kept_connection_that_asks_nothing_ends(strict):
    with connected(strict.rest_address) as connection:
        for _ in range(2):
            connection.sendall(STATUS.format("localhost", "").encode())
            assert read_answer(connection).status == 200
        assert connection.recv(100) == b""


def test_idle_connections_make_room(counting, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    with Server(counting, rest_port=0) as server, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(server.rest_address)) for _ in range(20)]
        for connection in idle[:4]:
            assert connection.recv(1) == b""
        assert ask(server.rest_address, STATUS.format("localhost", "")).status == 200
        # The newest stay.
        idle[-1].sendall(STATUS.format("localhost", "").encode())
        assert read_answer(idle[-1]).status == 200


def test_connections_that_are_served_are_not_ended_for_others(counting, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    with Server(counting, rest_port=0) as server, connected(server.rest_address) as busy:
        busy.sendall(post_text(PREDICT, LONG))
        wait_until(lambda: server.in_flight == 1)
        for _ in range(5):
            assert ask(server.rest_address, STATUS.format("localhost", "")).status == 200
        assert server.in_flight == 1


def test_too_many_large_bodies_end_the_longest(counting, monkeypatch):
    monkeypatch.setattr(bodies, "MAX_LARGEST_BODIES", 2)
    with Server(counting, rest_port=0, max_message_bytes=LIMIT) as server:
        with contextlib.ExitStack() as stack:
            begun = [stack.enter_context(connected(server.rest_address)) for _ in range(3)]
            for connection in begun:
                connection.sendall(post_text(PREDICT, "x" * LIMIT)[:-10])
            answers = [read_answer(begun[0])]
            assert ask(server.rest_address, post_text(PREDICT, GOOD)).status == 200
    assert [(answer.status, answer.error) for answer in answers] == [
        (429, "too many large requests are being received")
    ]


def test_a_client_that_goes_cancels_its_request(counting):
    with Server(counting, rest_port=0) as server:
        for end in (socket.SHUT_RDWR, socket.SHUT_WR):
            with connected(server.rest_address) as connection:
                connection.sendall(post_text(PREDICT, LONG))
                wait_until(lambda: server.in_flight == 1)
                connection.shutdown(end)
                wait_until(lambda: server.in_flight == 0)


def test_places_are_limited(strict):
    url = strict.rest_address
    with connected(url) as first, connected(url) as second:
        for connection in (first, second):
            connection.sendall(post_text(PREDICT, LONG))
        wait_until(lambda: strict.in_flight == 2)
        answer = ask(url, post_text(PREDICT, GOOD))
        assert (answer.status, answer.error) == (429, "2 requests are being answered already")
        assert ask(url, STATUS.format("localhost", "")).status == 200
    wait_until(lambda: strict.in_flight == 0)


def test_an_answer_above_the_limit_is_refused(strict):
    body = json.dumps({"inputs": {"value": [0.3] * 400, "steps": [0] * 400}})
    answer = ask(strict.rest_address, post_text(PREDICT, body))
    assert answer.status == 429
    assert answer.error.startswith("Sent message larger than max (")


def test_pipelined_requests_are_answered_in_order(open_server):
    with connected(open_server.rest_address) as connection:
        connection.sendall(post_text(PREDICT, GOOD) + STATUS.format("localhost", "").encode())
        text = b""
        while text.count(b"HTTP/1.1 200 OK") < 2 or not text.endswith(b"}\n"):
            text += connection.recv(65536)
    assert b"predictions" in Answer(text).body


def test_a_server_that_stops_finishes_what_is_under_way(counting):
    with Server(counting, rest_port=0) as server:
        with connected(server.rest_address) as busy, connected(server.rest_address) as slow:
            slow.sendall(post_text(PREDICT, GOOD)[:-5])
            steps = 100_000
            busy.sendall(post_text(PREDICT, LONG.replace(str(ENDLESS), str(steps))))
            wait_until(lambda: server.in_flight == 1)
            server.stop(grace=60)
            assert read_answer(busy).status == 200
            answer = read_answer(slow)
            assert (answer.status, answer.error) == (503, "the server stops")
        with pytest.raises(requests.ConnectionError):
            requests.get(server.rest_address, timeout=10)


def test_a_server_that_stops_cancels_what_does_not_end(counting):
    with Server(counting, rest_port=0) as server:
        with connected(server.rest_address) as connection:
            connection.sendall(post_text(PREDICT, LONG))
            wait_until(lambda: server.in_flight == 1)
            start = time.monotonic()
            server.stop(grace=0.1)
            assert time.monotonic() - start < 20
            assert connection.recv(100) == b""
