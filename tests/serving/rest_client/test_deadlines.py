"""Answers that come late, in drops, or without end."""

import asyncio
import contextlib
import itertools
import socket
import threading

import grpc
import numpy as np
import pytest

from serving.client import AsyncClient, Client, RetryPolicy, ServingError
from serving.client.errors import Failure
from serving.client.http_connection import HttpRequest, HttpServer
from tests.serving.rest_client.asking import IMAGE, METADATA, PREDICT, both, drops
from tests.serving.rest_server import Reply


@both
def test_an_endless_answer_is_not_read_to_its_end(server, ask):
    server.replies[PREDICT] = Reply(itertools.repeat(b" " * 65536))
    with pytest.raises(
        ServingError, match="RESOURCE_EXHAUSTED: a response of .* max_message_bytes 1000000"
    ):
        ask(server.address, max_message_bytes=1_000_000)
    assert server.left.wait(30)
    server.left.clear()
    server.replies[PREDICT] = Reply(itertools.repeat(b" " * 65536), 500)
    with pytest.raises(ServingError, match="INTERNAL: HTTP 500"):
        ask(server.address)
    assert server.left.wait(30)


@both
@pytest.mark.parametrize("status", [200, 503])
def test_the_deadline_is_kept(server, ask, status):
    released = threading.Event()
    server.replies[PREDICT] = Reply(drops(released), status)
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED: no answer within the timeout"):
        ask(server.address, timeout=0.5)
    assert server.left.wait(30)
    released.set()


def test_nothing_is_sent_after_the_deadline(server):
    with contextlib.closing(HttpServer(server.address, None, 1000).connect()) as connection:
        with pytest.raises(Failure, match="no answer within the timeout") as caught:
            connection.send(HttpRequest("GET", METADATA), 0.0)
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert not server.requests


@both
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_silent_server_is_left(ask, scheme):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
            ask(address, timeout=0.3)


@both
def test_retries_end_with_the_deadline(server, ask):
    server.replies[PREDICT] = Reply(b'{ "error": "starting" }', 503)
    patient = RetryPolicy(attempts=1000, initial_pause=0.1, factor=1.0, seed=0)
    with pytest.raises(ServingError, match="UNAVAILABLE|DEADLINE_EXCEEDED"):
        ask(server.address, retries=patient, timeout=0.5)
    assert 2 <= len(server.bodies(PREDICT)) < 1000


def test_one_deadline_covers_all_requests(server):
    released = threading.Event()
    slow = itertools.chain([b'{"outputs": [[0.5'], itertools.islice(drops(released), 4), [b"]]}"])
    server.replies[PREDICT] = [Reply(slow), Reply(drops(released))]
    with Client(server.address, timeout=1, batch_size=1) as client:
        with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
            client.features(np.zeros((2, 2, 2, 3), np.uint8))
    released.set()
    assert len(server.bodies(PREDICT)) == 2


def test_a_cancelled_task_cancels_its_request(server):
    released = threading.Event()
    server.replies[PREDICT] = Reply(drops(released))

    async def run():
        async with AsyncClient(server.address) as client:
            task = asyncio.create_task(client.features(IMAGE))
            while not server.bodies(PREDICT):
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert server.left.wait(30), "the connection is closed although the client is open"

    asyncio.run(run())
    released.set()
