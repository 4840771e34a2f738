"""The log: lines of JSON and nothing else, which nobody needs to read."""

import contextlib
import json
import logging
import os
import sys
import threading
import warnings

import grpc
import prometheus_client
import pytest

from serving.server import BatchingParameters, Server, log
from serving.server.log import JsonFormatter, json_log
from tests.serving.server.conftest import count_request, counted, refused, wait_until


@contextlib.contextmanager
def piped_stderr():
    """A pipe in the place of stderr; gives what reads it.

    A fixture would put it there before pytest puts its own file in the same place.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def read():
        """All lines. Nothing more is written to the pipe."""
        os.dup2(saved, 2)
        with open(os.dup(reading), "rb") as file:
            return file.read().decode().splitlines()

    try:
        yield read
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(reading)


def dropped(counter=log.DROPPED_LINES):
    (metric,) = counter.collect()
    return metric.samples[0].value


def test_every_request_is_one_line_of_json(counting, connect, caplog):
    batching = BatchingParameters(max_batch_size=4, batch_timeout_micros=0)
    caplog.set_level(logging.INFO, logger="serving")
    with Server(counting, batching=batching) as server:
        stub = connect(server)
        stub.Predict(count_request(1, 2), timeout=30)
        refused(stub.Predict, count_request(-1, version=1))
        refused(stub.Predict, count_request(1, name="née\n"))
    records = [record for record in caplog.records if record.getMessage() == "request"]
    lines = [JsonFormatter().format(record) for record in records]
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


NASTY = "a\nb\r\x00\x1b[31m\x7f\x85\u2028\u2029\ud800é\U0001f600"


def test_a_line_is_printable_ascii_whatever_a_name_holds():
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s", (NASTY,), None)
    record.fields = {"error": NASTY}
    line = JsonFormatter().format(record)
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["error"] == json.loads(line)["message"] == NASTY


def test_everything_on_stderr_becomes_json():
    with piped_stderr() as read:
        with json_log():
            logging.getLogger("some.library").error("a library\nin two lines")
            logging.getLogger("serving.x").info("ours")
            warnings.warn("a warning", stacklevel=1)
            os.write(2, b"from C++ \xff\x1b\n\nand without an end")
            try:
                raise ValueError("with a\ntraceback")
            except ValueError:
                logging.getLogger("asyncio").exception("task failed")
            thread = threading.Thread(target=lambda: [][0])
            print("printed", file=os.fdopen(os.dup(2), "w"), flush=True)
            with pytest.MonkeyPatch.context() as patch:
                # pytest has its own.
                patch.setattr(threading, "excepthook", threading.__excepthook__)
                patch.setattr(sys, "stderr", os.fdopen(os.dup(2), "w", buffering=1))
                thread.start()
                thread.join()
                sys.stderr.close()
        lines = [json.loads(line) for line in read()]
    messages = [line["message"] for line in lines]
    for expected in (
        "a library\nin two lines",
        "ours",
        "from C++ \ufffd\x1b",
        "and without an endprinted",
        "task failed",
        "IndexError: list index out of range",
    ):
        assert expected in messages
    assert any("a warning" in message for message in messages)
    assert any("with a\ntraceback" in line.get("exception", "") for line in lines)


def test_the_process_writes_as_before_when_the_log_has_ended():
    handlers = logging.getLogger().handlers[:]
    with piped_stderr() as read:
        with json_log():
            pass
        os.write(2, b"plain\n")
        assert read() == ["plain"]
    assert logging.getLogger().handlers == handlers


def test_a_log_that_nobody_reads_stops_nothing(counting, connect, monkeypatch):
    monkeypatch.setattr(log, "MAX_WAITING_LINES", 10)
    monkeypatch.setattr(log, "LAST_SECONDS", 0.1)
    before = dropped()
    with piped_stderr(), json_log(), Server(counting) as server:
        stub = connect(server)
        request = count_request(1, name="x" * 5000)
        # More than the pipe holds.
        for _ in range(200):
            assert refused(stub.Predict, request)[0] == grpc.StatusCode.NOT_FOUND
        os.write(2, b"noise\n" * 100_000)
        assert counted(stub.Predict(count_request(1), timeout=30)) == [2]
        wait_until(lambda: dropped() > before)


def test_lines_are_complete_or_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(log, "MAX_WAITING_LINES", 10)
    reading, writing = os.pipe()
    # A server of another test may still drop lines, which count elsewhere.
    counter = prometheus_client.Counter("dropped", "Lines.", registry=None)
    writer = log.LineWriter(writing, counter)
    for number in range(1000):
        writer.write(f"{number} " + "x" * 1000)
    lost = dropped(counter)
    assert lost > 0
    with open(reading, encoding="ascii") as file:
        closing = threading.Thread(target=writer.close)
        closing.start()
        lines = file.read().splitlines()
    closing.join()
    assert len(lines) == 1000 - lost
    assert all(len(line) >= 1000 for line in lines)
