"""Routes, refusals and statuses of REST, asked with `requests`.

Cases and words are those of TensorFlow Serving's http_rest_api_handler_test.cc and api_rest.md.
"""

import pytest
import requests

from serving import Server
from serving.server.configuration import BatchingParameters


@pytest.fixture(scope="module")
def rest(counting):
    with Server(counting, rest_port=0, batching=BatchingParameters()) as server:
        yield server.rest_address


def post(rest, path, body):
    answer = requests.post(f"{rest}/v1/models/{path}", data=body, timeout=30)
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, answer.json()


def test_predict_in_both_formats_by_version_and_without(rest):
    rows = '{"instances": [{"value": 1.5, "steps": 0}, {"value": 2, "steps": 0}]}'
    columns = '{"signature_name": "serving_default", "inputs": {"value": [1.5], "steps": [0]}}'
    for version in ("", "/versions/1"):
        status, answer = post(rest, f"igpt{version}:predict", rows)
        assert status == 200
        assert [row["value"] for row in answer["predictions"]] == [2.5, 3.0]
        status, answer = post(rest, f"igpt{version}:predict", columns)
        assert (status, answer) == (200, {"outputs": {"batch_size": [1], "value": [2.5]}})


def test_status_of_a_model(rest):
    version = {
        "version": "1",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    for path in ("igpt", "igpt/versions/1"):
        answer = requests.get(f"{rest}/v1/models/{path}", timeout=30)
        assert answer.json() == {"model_version_status": [version]}
    answer = requests.get(f"{rest}/v1/models/foo", timeout=30)
    assert answer.status_code == 404
    assert answer.json() == {"error": "Could not find any versions of model foo"}
