"""Refusals, and what no model server answers."""

import socket

import grpc
import pytest

from serving.client import Client, MissingSignatureError, RetryPolicy, ServingError
from tests.serving.rest_client.asking import METADATA, MODEL, PREDICT, QUICKLY, ask, both
from tests.serving.rest_server import Reply

HTML = b"<!DOCTYPE html>\n<html>\n<head><title>Sign in</title></head></html>\n"
# ToHTTPStatusCode of tensorflow_serving/model_servers/http_server.cc, without OK.
TO_HTTP = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}


def test_statuses_have_one_of_the_codes_that_tensorflow_serving_has_for_them(server):
    assert {code.name for code in grpc.StatusCode} == {"OK", *TO_HTTP}
    for status in set(TO_HTTP.values()):
        server.replies[PREDICT] = Reply(b'{ "error": "two\\nlines" }', status)
        with pytest.raises(ServingError, match=": two lines$") as caught:
            ask(server.address, retries=RetryPolicy(attempts=1))
        assert TO_HTTP[caught.value.code.name] == status
        assert str(caught.value).startswith(f"{server.address}: {caught.value.code.name}: ")


@both
def test_an_unknown_model_is_not_found(server, ask):
    answer = b'{ "error": "Servable not found for request: Latest(half)" }'
    server.replies[METADATA] = Reply(answer, 404)
    with pytest.raises(ServingError, match=r"NOT_FOUND: Servable not found .* Latest\(half\)"):
        ask(server.address)
    assert len(server.requests) == 1


@both
def test_what_a_missing_signature_needs_is_told(server, ask):
    with pytest.raises(MissingSignatureError, match="a classifier or a class-conditional model"):
        ask(server.address, "classify")
    # As TensorFlow Serving says it, if the version has changed meanwhile.
    details = 'Serving signature name: \\"features\\" not found in signature def'
    server.replies[PREDICT] = Reply(f'{{ "error": "{details}" }}'.encode(), 400)
    with pytest.raises(MissingSignatureError, match='"features" not found'):
        ask(server.address)


@both
def test_unavailable_is_asked_again(server, ask):
    answer = server.replies[PREDICT]
    starting = Reply(b'{ "error": "starting" }', 503)
    # A proxy says 502 for a server that is not there.
    server.replies[PREDICT] = [starting, Reply(HTML, 502, "text/html"), Reply(status=0), answer]
    assert ask(server.address, retries=QUICKLY).shape == (1, 3)
    bodies = server.bodies(PREDICT)
    assert len(bodies) == 4
    assert len(set(bodies)) == 1
    server.replies[PREDICT] = starting
    with pytest.raises(ServingError, match="UNAVAILABLE: starting") as caught:
        ask(server.address, retries=QUICKLY)
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    assert len(server.bodies(PREDICT)) == 8


@both
def test_other_failures_are_not_repeated(server, ask):
    for status, code in (
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (413, "RESOURCE_EXHAUSTED"),
        (408, "DEADLINE_EXCEEDED"),
    ):
        server.replies[PREDICT] = Reply(b'{ "error": "no" }', status)
        with pytest.raises(ServingError, match=code):
            ask(server.address, retries=QUICKLY)
    assert len(server.bodies(PREDICT)) == 4


@both
def test_no_server_is_unavailable(ask):
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = f"http://127.0.0.1:{reserved.getsockname()[1]}"
    with pytest.raises(ServingError, match=f"{address}: UNAVAILABLE: ConnectError"):
        ask(address, retries=QUICKLY)


@both
@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            Reply(HTML, 200, "text/html"),
            r"UNKNOWN: HTTP 200 OK \(text/html\), no answer .*: <!DOCTYPE html> <html>",
        ),
        (
            Reply(HTML, 403, "text/html; charset=utf-8"),
            r"PERMISSION_DENIED: HTTP 403 Forbidden \(text/html",
        ),
        (
            Reply(b"", 301, None, {"Location": "https://a/"}),
            "UNKNOWN: HTTP 301 Moved Permanently to https://a/ ",
        ),
        (Reply(b"", 418, None), r"UNKNOWN: HTTP 418 .* \(no Content-Type\)"),
        (Reply(b'{ "error": "it\\\'s \\303" }', 400), "INVALID_ARGUMENT: HTTP 400 .*it"),
        (Reply(b"[" * 100_000, 400), "INVALID_ARGUMENT: HTTP 400"),
        (Reply(b'{"error": ["a", "b"]}', 400), r'INVALID_ARGUMENT: HTTP 400 .*\["a", "b"\]'),
        (
            Reply(b'{"outputs": [[0.5, 1.0'),
            "UNKNOWN: an answer that no model server gives .JSONDecodeError",
        ),
        (Reply(b""), "UNKNOWN: .*JSONDecodeError"),
        (Reply(b"[" * 100_000), "UNKNOWN: .*RecursionError"),
        (Reply(b"[]"), "UNKNOWN"),
        (Reply(b'{"predictions": [1]}'), "UNKNOWN: .*KeyError: 'outputs'"),
        (Reply(b'{"outputs": {"other": [[1.0]]}}'), "UNKNOWN"),
        (Reply(b'{"outputs": [[1.0], [1.0, 2.0]]}'), "UNKNOWN: .*ValueError"),
        (Reply(b'{"outputs": [["1.0"]]}'), "UNKNOWN: .*ValueError: <U3 in a tensor of float32"),
        (Reply(b'{"outputs": [[null]]}'), "UNKNOWN: .*ValueError: object in a tensor"),
        (Reply(b'{"outputs": [[1.0], [2.0]]}'), r"UNKNOWN: .*features \[2, 1\] for 1 examples"),
        (Reply(b'{"outputs": 1.0}'), r"UNKNOWN: .*features \[\] for 1 examples"),
    ],
    ids=str,
)
def test_what_no_model_server_answers_is_told(server, ask, reply, message):
    server.replies[PREDICT] = reply
    with pytest.raises(ServingError, match=message) as caught:
        ask(server.address, retries=QUICKLY)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert len(server.bodies(PREDICT)) == 1


@both
def test_metadata_and_status_of_another_form_are_told(server, ask):
    for content in (b"{}", b'{"metadata": []}', b"null", b'{"metadata": {"signature_def": 1}}'):
        server.replies[METADATA] = server.replies[MODEL] = Reply(content)
        with pytest.raises(ServingError, match="UNKNOWN"):
            ask(server.address)
        with Client(server.address) as client, pytest.raises(ServingError, match="UNKNOWN"):
            client.status()


@both
def test_an_answer_that_breaks_off_is_asked_for_again(server, ask):
    answer = server.replies[PREDICT]
    server.replies[PREDICT] = [Reply(answer.body, length=len(answer.body) + 1), answer]
    assert ask(server.address, retries=QUICKLY).shape == (1, 3)
    assert len(server.bodies(PREDICT)) == 2
