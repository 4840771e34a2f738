"""Readers of streams that go, wait or break something, and what is then free again.

The model is written by hand after the table in `serving.row_functions`. Its rows are large and cost
nothing, unless a request makes them endless or fail.
"""

import contextlib
import json
import os
import pathlib
import socket

import pytest
import requests
import tensorflow as tf

from serving import Server
from serving.server.rest import site
from serving.server.row_streams import StateBudget
from tests.serving.server.conftest import (
    ENDLESS,
    metric,
    save_counting_model,
    scrape,
    wait_until,
)

SIZE = 256
# Numbers in the state of a completion: a megabyte.
CACHE = 1 << 18
FAILING_ROW, FAILS = 3, 7.0


def save_rows_model(directory):
    """A model whose pixels all have the number of their row.

    Each row takes `top_k` steps. At a temperature of `FAILS`, row `FAILING_ROW` fails.
    """
    module = tf.Module()
    module.rows = tf.Module()

    def view(*, image_bytes):
        with tf.control_dependencies([tf.strings.length(image_bytes)]):
            pixels = tf.zeros([SIZE, SIZE, 3], tf.uint8)
        return {"image": pixels, "pixels": pixels}

    def begin(*, image, known, num_completions):
        first = tf.argmin(tf.cast(tf.reshape(known, [-1]), tf.int32), output_type=tf.int32)
        first += 0 * tf.cast(image[0, 0, 0], tf.int32)
        return {"position": first, "cache": tf.zeros([num_completions, CACHE])}

    def decode_row(*, known, seed, temperature, top_k, top_p, position, cache):
        row, count = position // SIZE, tf.size(seed)
        fails = tf.reduce_any(temperature == FAILS) & (row == FAILING_ROW)
        last = tf.reduce_max(top_k)
        with tf.control_dependencies([tf.debugging.Assert(~fails, ["this row fails"])]):
            (step,) = tf.while_loop(lambda step: step < last, lambda step: (step + 1,), (0 * last,))
        with tf.control_dependencies([step]):
            pixels = tf.fill([count, 1, SIZE, 3], tf.cast(row, tf.uint8))
        return {
            "position": (row + 1) * SIZE,
            "cache": cache + 1.0,
            "num_rows": row + 1,
            "pixels": pixels,
            "entropy": tf.fill([count, 1, SIZE], 1.25) * top_p[:, None, None],
            "log_likelihood": tf.cast(tf.fill([count], -row), tf.float32),
        }

    numbers = {"temperature": tf.float32, "top_k": tf.int32, "top_p": tf.float32}
    known = {"known": tf.TensorSpec([SIZE, SIZE], tf.bool)}
    specs = {
        view: {"image_bytes": tf.TensorSpec([], tf.string)},
        begin: {
            "image": tf.TensorSpec([SIZE, SIZE, 3], tf.uint8),
            "num_completions": tf.TensorSpec([], tf.int32),
            **known,
        },
        decode_row: {
            "seed": tf.TensorSpec([None], tf.int64),
            "position": tf.TensorSpec([], tf.int32),
            "cache": tf.TensorSpec([None, CACHE], tf.float32),
            **known,
            **{name: tf.TensorSpec([None], dtype) for name, dtype in numbers.items()},
        },
    }
    for function, inputs in specs.items():
        concrete = tf.function(function).get_concrete_function(**inputs)
        setattr(module.rows, function.__name__, concrete)
    tf.saved_model.save(module, str(directory / "1"), signatures={})


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rows")
    save_rows_model(directory)
    return directory


@pytest.fixture(scope="module")
def server(directory):
    with Server(directory, rest_port=0, metrics_port=0, max_requests=2) as server:
        yield server


def ask(server, **arguments):
    url = f"{server.rest_address}/v1/models/igpt:stream"
    return requests.post(url, json={"image": None, **arguments}, stream=True, timeout=60)


def events(answer):
    blocks = answer.raw.read(decode_content=True).decode().split("\n\n")[:-1]
    pairs = [block.split("\n") for block in blocks]
    return [(name[7:], json.loads(data[6:])) for name, data in pairs]


def rows_decoded(server) -> int:
    labels = {"model": "igpt", "signature": "decode_row"}
    return scrape(server).get(metric("igpt_serving_batch_examples_count", **labels), 0)


@contextlib.contextmanager
def unread(server, **arguments):
    """A client that has asked, with little room for what it does not read."""
    body = json.dumps({"image": None, **arguments}).encode()
    host, port = server.rest_address.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        head = f"POST /v1/models/igpt:stream HTTP/1.1\r\nHost: {host}\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        yield client


def test_a_stream_is_one_line_of_the_log(server, caplog):
    with caplog.at_level("INFO", logger="serving"):
        (_, start), *rows, (_, done) = events(ask(server, num_completions=2, seed=1))
        wait_until(lambda: server.in_flight == 0 and caplog.records)
    assert [row["row"] for _, row in rows] == list(range(SIZE))
    assert rows[5][1]["entropies"] == [[1.25] * SIZE] * 2
    assert start["pixels"] is None
    assert done["log_likelihood"] == [-(SIZE - 1)] * 2
    (fields,) = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert (fields["method"], fields["status"], fields["error"]) == ("Stream", "OK", "")
    assert (fields["model"], fields["version"], fields["examples"]) == ("igpt", 1, 2)


def test_a_failure_in_the_middle_is_the_last_event(server):
    *rows, (last, data) = events(ask(server, temperature=FAILS))
    assert [name for name, _ in rows] == ["start", *["row"] * FAILING_ROW]
    assert (last, data["code"]) == ("error", "INVALID_ARGUMENT")
    assert "this row fails" in data["error"]


def test_a_reader_that_goes_stops_the_decoder_within_a_row(server):
    before = rows_decoded(server)
    answer = ask(server, top_k=ENDLESS)
    assert answer.raw.read(12) == b"event: start"
    assert server.in_flight == 1
    answer.close()
    wait_until(lambda: server.in_flight == 0)
    assert rows_decoded(server) == before


@pytest.mark.slow
def test_a_reader_that_waits_holds_the_decoder(server):
    before, counts = rows_decoded(server), []

    def is_held():
        counts.append(rows_decoded(server))
        return len(counts) > 20 and counts[-20] == counts[-1] > before

    with unread(server, num_completions=16) as client:
        wait_until(is_held)
        assert counts[-1] < before + SIZE
        assert server.in_flight == 1
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        received = b""
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += client.recv(1 << 16)
    assert received.count(b"event: row") == SIZE
    with unread(server, num_completions=16):
        wait_until(lambda: server.in_flight == 1)
    wait_until(lambda: server.in_flight == 0)


def test_a_reader_that_never_reads_is_dropped(directory, monkeypatch):
    monkeypatch.setattr(site, "READING_SECONDS", 0.1)
    with (
        Server(directory, rest_port=0, metrics_port=0) as server,
        unread(server, num_completions=16) as client,
    ):
        wait_until(lambda: rows_decoded(server) > 0)
        wait_until(lambda: server.in_flight == 0)
        assert rows_decoded(server) < SIZE
        received = []
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(1 << 16):
                received.append(part)
        assert b"event: done" not in b"".join(received)


def test_streams_take_places_of_requests(server):
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            answer = stack.enter_context(ask(server, top_k=ENDLESS))
            assert answer.raw.read(12) == b"event: start"
        refused = ask(server)
        assert (refused.status_code, refused.json()) == (
            429,
            {"error": "2 requests are being answered already"},
        )
        models = requests.get(f"{server.rest_address}/v1/models", timeout=30).json()
        assert models["models"][0]["streams"]
    wait_until(lambda: server.in_flight == 0)


def test_states_are_limited_in_memory():
    budget = StateBudget(max_bytes=100)
    with budget.hold(2, 30):
        with pytest.raises(Exception, match="completions under way hold 60 of at most 100 bytes"):
            budget.hold(1, 41).__enter__()
        with budget.hold(1, 40):
            assert budget.in_flight == 100
    assert budget.in_flight == 0


def test_other_models_have_no_streams(tmp_path):
    save_counting_model(tmp_path, 1)
    with Server(tmp_path, rest_port=0) as server:
        answer = ask(server)
        assert (answer.status_code, answer.json()["error"]) == (
            400,
            "version 1 of model igpt does not complete row by row",
        )
        (entry,) = requests.get(f"{server.rest_address}/v1/models", timeout=30).json()["models"]
        assert (entry["streams"], entry["image_size"], entry["signatures"]) == (False, None, [])


@pytest.mark.slow
def test_streams_leave_nothing_behind(server):
    def memory():
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    usages = []
    for number in range(60):
        # Each holds 16 MB, and ends by itself, by an error, or as its reader goes.
        ending = [{"temperature": FAILS}, {"top_k": ENDLESS}, {}][number % 3]
        with ask(server, num_completions=16, **ending) as answer:
            answer.raw.read(12 if number % 3 else None)
        wait_until(lambda: server.in_flight == 0)
        usages.append(memory())
    assert max(usages[50:]) < max(usages[10:20]) + 100
