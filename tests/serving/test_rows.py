"""Rows of completions as they come, from an answer written by hand."""

import asyncio
import base64
import contextlib
import itertools
import json
import threading

import grpc
import numpy as np
import pytest

from igpt_keras import InputError
from igpt_keras.sampling.samplers import Categorical
from serving.client import AsyncClient, Client, RetryPolicy, ServingError
from serving.client.errors import Failure
from serving.client.rows import GRAY, EventReader
from tests.serving.rest_server import Reply, rest_server

STREAM = "/v1/models/igpt:stream"
GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(0, 256, (3, 3, 3), dtype=np.uint8)
COMPLETIONS = GENERATOR.integers(0, 256, (2, 3, 3, 3), dtype=np.uint8)
ENTROPY = GENERATOR.uniform(0, 5, (2, 3, 3)).astype(np.float32)
LIKELIHOODS = {"log_likelihood": [-7.5, -8.25], "bits_per_pixel": [1.5, 1.75]}
QUICKLY = RetryPolicy(attempts=3, initial_pause=0.01, seed=0)


def event(name, data):
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def text(pixels):
    return base64.b64encode(pixels.tobytes()).decode()


def start(**changes):
    data = {"model": "igpt", "version": 1, "image_size": 3, "num_completions": 2}
    return event("start", {**data, "pixels": text(IMAGE), **changes})


def row(index, **changes):
    data = {
        "row": index,
        "pixels": text(COMPLETIONS[:, index]),
        "entropies": ENTROPY[:, index].tolist(),
    }
    return event("row", {**data, **changes})


DONE = event("done", LIKELIHOODS)
ANSWER = [start(), row(1), row(2), DONE]


@pytest.fixture
def server():
    with rest_server() as server:
        yield server


def reply(*parts, **options):
    return Reply([*parts], content_type="text/event-stream; charset=utf-8", **options)


def follow(address, *arguments, retries=QUICKLY, timeout=30, **settings):
    """The partial completions from the waiting client."""
    with Client(address, retries=retries, timeout=timeout) as client:
        return list(client.complete_rows(*(arguments or (IMAGE,)), **settings))


def follow_asynchronously(address, *arguments, retries=QUICKLY, timeout=30, **settings):
    """The same from the other one."""

    async def run():
        async with AsyncClient(address, retries=retries, timeout=timeout) as client:
            rows = client.complete_rows(*(arguments or (IMAGE,)), **settings)
            return [partial async for partial in rows]

    return asyncio.run(run())


both = pytest.mark.parametrize("follow", [follow, follow_asynchronously])


@both
def test_rows_fill_gray_images(server, follow):
    server.replies[STREAM] = reply(*ANSWER)
    partials = follow(
        server.address,
        keep_rows=np.int64(1),
        num_completions=np.int64(2),
        sampler=Categorical(0.5, top_k=7),
        seed=np.int64(4),
    )
    assert [partial.num_rows for partial in partials] == [1, 2, 3, 3]
    for partial in partials:
        expected = np.full((2, 3, 3, 3), GRAY)
        expected[:, 0] = IMAGE[0]
        expected[:, 1 : partial.num_rows] = COMPLETIONS[:, 1 : partial.num_rows]
        np.testing.assert_array_equal(partial.images, expected)
        entropy = np.full((2, 3, 3), np.nan, np.float32)
        entropy[:, 1 : partial.num_rows] = ENTROPY[:, 1 : partial.num_rows]
        np.testing.assert_array_equal(partial.entropy, entropy)
        assert (partial.images.dtype, partial.entropy.dtype) == (np.uint8, np.float32)
    assert all(partial.log_likelihood is None for partial in partials[:-1])
    for name, values in LIKELIHOODS.items():
        assert getattr(partials[-1], name).tolist() == values
    (request,) = server.requests
    assert request.headers["Accept"] == "text/event-stream"
    settings = json.loads(request.body)
    assert base64.b64decode(settings.pop("image")["b64"]).startswith(b"\x89PNG")
    assert settings == {
        "keep_rows": 1,
        "num_completions": 2,
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 1.0,
        "seed": 4,
    }


@both
def test_a_mask_and_no_image_are_settings_too(server, follow):
    known = np.array([[True] * 3, [True, False, True], [False] * 3])
    server.replies[STREAM] = reply(*ANSWER)
    first, second, *_ = follow(server.address, known=known, num_completions=2)
    expected = np.where(known[:, :, None], IMAGE, GRAY)
    np.testing.assert_array_equal(first.images, [expected] * 2)
    assert (first.num_rows, second.num_rows) == (1, 2)
    np.testing.assert_array_equal(second.images[:, 1], COMPLETIONS[:, 1])
    server.replies[STREAM] = reply(start(pixels=None), row(0), row(1), row(2), DONE)
    partials = follow(server.address, None, num_completions=2)
    assert [partial.num_rows for partial in partials] == [0, 1, 2, 3, 3]
    np.testing.assert_array_equal(partials[-1].images, COMPLETIONS)
    masked, sampled = (json.loads(request.body) for request in server.requests)
    assert masked["known"] == known.tolist() and "keep_rows" not in masked
    assert sampled["image"] is None and not {"known", "keep_rows"} & sampled.keys()


@both
def test_an_image_that_is_known_has_no_rows_to_come(server, follow):
    server.replies[STREAM] = reply(start(), DONE)
    partials = follow(server.address, keep_rows=3, num_completions=2)
    assert [partial.num_rows for partial in partials] == [3, 3]
    np.testing.assert_array_equal(partials[-1].images, [IMAGE] * 2)


def test_events_may_be_cut_anywhere():
    written = (
        b": a comment\r\nevent: a\r\ndata: 1\r\ndata:2\r\n\r\n"
        b"data\n\n:\n\nevent: b\rid: 7\rdata: \xc3\xa9\r\revent: lost\n\nretry: 1\ndata:  x\n\n"
    )
    expected = [("a", b"1\n2"), ("", b""), ("b", "é".encode()), ("", b" x")]
    for size in range(1, len(written) + 1):
        parts = [written[at : at + size] for at in range(0, len(written), size)]
        reader = EventReader(100)
        assert [found for part in parts for found in reader.read(part)] == expected


@pytest.mark.parametrize(
    "parts",
    [
        [b"x" * 60] * 2,
        [b"data: " + b"x" * 50 + b"\n"] * 3,
        [b"data: " + b"x" * 101 + b"\n\n"],
    ],
)
def test_events_have_a_largest_size(parts):
    reader = EventReader(100)
    with pytest.raises(Failure, match="more bytes than max_message_bytes 100"):
        for part in parts:
            list(reader.read(part))


@both
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "UNAVAILABLE: the answer ended after 0 rows"),
        (ANSWER[:2], "UNAVAILABLE: the answer ended after 2 rows"),
        ([start(), DONE[:-1]], "UNAVAILABLE: the answer ended after 1 rows"),
        ([start(), b"event: row\ndata: {\n\n"], "UNKNOWN: .*JSONDecodeError"),
        ([start(image_size=2)], "UNKNOWN: .*ValueError"),
        ([start(image_size=10**9, pixels=None)], "UNKNOWN: .*image_size 1000000000"),
        ([start(image_size=0, pixels=None)], "UNKNOWN: .*image_size 0"),
        ([start(image_size=-3)], "UNKNOWN: .*ValueError"),
        ([start(image_size="3")], "UNKNOWN"),
        ([row(1)], "UNKNOWN: .*no event start"),
        ([start(), row(2), row(1)], "UNKNOWN: .*row 1 after 3 rows"),
        ([start(), row(1), row(1)], "UNKNOWN: .*row 1 after 2 rows"),
        ([start(), row(2, row=3)], "UNKNOWN: .*row 3"),
        ([start(), row(2, pixels="AAAA")], "UNKNOWN: .*ValueError"),
        ([start(), row(2, pixels="?" + text(COMPLETIONS[:, 2]))], "UNKNOWN"),
        ([start(), row(2, entropies=[[1.0]])], "UNKNOWN"),
        ([start(), event("done", {"log_likelihood": [1.0]})], "UNKNOWN"),
        ([start(), event("error", {"error": "gone"})], "UNKNOWN"),
        (
            [start(), row(1), event("error", {"error": "too\nmuch", "code": "RESOURCE_EXHAUSTED"})],
            "RESOURCE_EXHAUSTED: too much",
        ),
    ],
)
def test_what_is_no_answer_is_told(server, follow, parts, message):
    server.replies[STREAM] = reply(*parts)
    with pytest.raises(ServingError, match=message):
        follow(server.address, keep_rows=1, num_completions=2)
    assert len(server.requests) == (1 if parts else 3)


@both
def test_other_events_are_passed_over(server, follow):
    server.replies[STREAM] = reply(event("hint", []), start(), b": still here\n\n", row(2), DONE)
    assert len(follow(server.address, keep_rows=2, num_completions=2)) == 3


@both
def test_refusals_before_the_first_event_are_those_of_predict(server, follow):
    server.replies[STREAM] = [
        Reply(b'{ "error": "starting" }', 503),
        Reply(status=0),
        reply(*ANSWER),
    ]
    assert len(follow(server.address, keep_rows=1, num_completions=2)) == 4
    server.replies[STREAM] = Reply(b'{ "error": "keep_rows must lie in 0\xe2\x80\xa63" }', 400)
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: keep_rows must lie in 0…3"):
        follow(server.address, keep_rows=9)
    server.replies[STREAM] = Reply(b"<html>", 200, "text/html")
    with pytest.raises(ServingError, match=r"UNKNOWN: HTTP 200 OK \(text/html\)"):
        follow(server.address, keep_rows=1)


@both
def test_rows_need_our_server(server, follow):
    server.replies[STREAM] = Reply(
        b'{ "error": "Malformed request: POST /v1/models/igpt:stream" }', 400
    )
    with pytest.raises(ServingError, match="UNIMPLEMENTED: only igpt serve answers") as caught:
        follow(server.address, keep_rows=1)
    assert caught.value.code == grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(InputError, match="rows as they come need the REST API.*'localhost:1'"):
        follow("localhost:1", keep_rows=1)


def comments(released):
    """A comment now and then, until the client has gone or should have."""
    for _ in range(400):
        if released.wait(0.05):
            return
        yield b": still here\n\n"


@both
def test_the_deadline_is_kept(server, follow):
    released = threading.Event()
    server.replies[STREAM] = reply()
    server.replies[STREAM].body = itertools.chain([start()], comments(released))
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
        follow(server.address, keep_rows=1, num_completions=2, timeout=0.5)
    assert server.left.wait(30)
    released.set()


def test_who_ends_the_iteration_leaves_the_server(server):
    released = threading.Event()

    def endless():
        answer = reply()
        answer.body = itertools.chain([start()], comments(released))
        return answer

    server.replies[STREAM] = [endless(), endless()]
    with Client(server.address) as client:
        for partial in client.complete_rows(IMAGE, keep_rows=1, num_completions=2):
            assert partial.num_rows == 1
            break
        assert server.left.wait(30), "the connection is closed although the client is open"
    server.left.clear()

    async def run():
        async with AsyncClient(server.address) as client:
            rows = client.complete_rows(IMAGE, keep_rows=1, num_completions=2)
            async with contextlib.aclosing(rows):
                async for _ in rows:
                    break
            assert await asyncio.to_thread(server.left.wait, 30)

    asyncio.run(run())
    released.set()


@pytest.mark.parametrize(
    ("image", "settings", "message"),
    [
        (IMAGE, {}, "an image needs one of keep_rows and known, got keep_rows None and known None"),
        (IMAGE, {"keep_rows": 1, "known": np.ones((3, 3), bool)}, r"got keep_rows 1 and known \(3"),
        (None, {"keep_rows": 1}, "no image goes with neither of keep_rows and known"),
        (IMAGE, {"keep_rows": -1}, "keep_rows must be an integer"),
        (IMAGE, {"known": np.ones((3, 3))}, r"known must be a mask bool \[R, R\].*float64 \[3, 3"),
        (IMAGE, {"known": np.ones((3, 2), bool)}, r"bool \[3, 2\]"),
        (IMAGE, {"keep_rows": 1, "num_completions": 0}, "num_completions"),
        (IMAGE, {"keep_rows": 1, "seed": [1]}, "seed must be an integer"),
        (IMAGE, {"keep_rows": 1, "seed": -1}, "seed must be an integer of at least 0, got -1"),
        (IMAGE, {"keep_rows": 1, "sampler": 0.9}, "sampler must be a Categorical"),
        (b"none", {"keep_rows": 1}, r"images\[0\] cannot be read"),
    ],
)
def test_arguments_are_checked_at_once(image, settings, message):
    for client in (Client("http://localhost:1"), AsyncClient("http://localhost:1")):
        with pytest.raises(InputError, match=message):
            client.complete_rows(image, **settings)
