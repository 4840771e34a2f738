"""Routes, refusals and statuses of REST, asked with `requests` and by hand.

The cases are those of TensorFlow Serving's http_rest_api_handler_test.cc,
http_rest_api_util_test.cc and api_rest.md.
"""

import pytest
import requests

from tests.serving.server.rest.conftest import ask, post_text

RESERVED = "%21%23%24%25%26%27%28%29%2A%2B%2C%2F%3A%3B%3D%3F%40%5B%5D"


def url(server, path):
    return f"{server.rest_address}/v1/models/{path}"


def post(server, path, body):
    answer = requests.post(url(server, path), data=body, timeout=30)
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, answer.json()


def get(server, path):
    answer = requests.get(url(server, path), timeout=30)
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    "path, body, answer",
    [
        ("half", '{"instances": [[1.0, 2.0], [3.0, 4.0]]}', {"predictions": [[2.5, 3], [3.5, 4]]}),
        ("half/versions/123", '{"instances": [1.0, 2.0]}', {"predictions": [2.5, 3.0]}),
        ("half/labels/stable%2F!", '{"instances": [1.0, 2.0]}', {"predictions": [2.5, 3.0]}),
        (
            "half/versions/124",
            '{"signature_name": "serving_default", "instances": [3.0, 4.0]}',
            {"predictions": [3.5, 4.0]},
        ),
        ("half", '{"inputs": [3.0, 4.0]}', {"outputs": [3.5, 4.0]}),
        ("half", '{"inputs": {"x": 3}}', {"outputs": 3.5}),
    ],
)
def test_predict(half, path, body, answer):
    assert post(half, f"{path}:predict", body) == (200, answer)


def test_the_answer_of_the_documentation(half):
    answer = ask(half.rest_address, post_text("/v1/models/half:predict", '{"instances": [1.0]}'))
    assert answer.status == 200
    assert answer.body == b'{\n    "predictions": [2.5\n    ]\n}'


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/v1/foo"),
        ("POST", "/v1/foo"),
        ("GET", "/v1/models/debug/model_name"),
        ("POST", "/v1/models"),
        ("GET", "/v1/models/foo:predict"),
        ("GET", "/v1/models/foo/version/50:predict"),
        ("POST", "/v1/models/foo/version/50:regress"),
        ("POST", "/v1/models/foo/versions/HELLO:regress"),
        ("POST", "/v1/models/foo/metadata"),
        ("POST", "/v1/models/foo/label/some_label:regress"),
        ("POST", "/v1/models/foo/versions/50/labels/some_label:regress"),
        ("POST", "/v1/models/foo/versions/some_label:regress"),
        ("POST", "/v1/models/half:PREDICT"),
        ("POST", "/v1/models/half:predict?x=1"),
        ("PUT", "/v1/models/half:predict"),
        ("HEAD", "/v1/models/half"),
        ("OPTIONS", "/v1/models/half"),
        ("GET", "/v1/models/half/../../../../etc/passwd"),
        ("GET", "/v1/models/half/versions/٣"),
    ],
)
def test_malformed_requests(half, method, path):
    with requests.Session() as session:
        request = requests.Request(method, half.rest_address).prepare()
        request.url = half.rest_address + path
        answer = session.send(request, timeout=30)
    assert answer.status_code == 400
    if method != "HEAD":
        assert answer.json()["error"].startswith(f"Malformed request: {method} /v1/")


def test_names_of_paths_ignore_case_as_in_tensorflow_serving(half):
    answer = requests.post(
        f"{half.rest_address}/V1/Models/half:predict", data='{"instances": [0]}', timeout=30
    )
    assert answer.json() == {"predictions": [2.0]}


@pytest.mark.parametrize(
    "path", ["/", "/index", "/statuspage", "/v2/models/half", "/v1", "/%2e%2e"]
)
def test_other_paths_are_not_found(half, path):
    answer = requests.get(half.rest_address + path, timeout=30)
    assert answer.status_code == 404
    assert "error" in answer.json()


@pytest.mark.parametrize(
    "path, message",
    [
        ("foo:predict", "Servable not found for request: Latest(foo)"),
        ("foo/versions/50:predict", "Servable not found for request: Specific(foo, 50)"),
        ("half/versions/99:predict", "Servable not found for request: Specific(half, 99)"),
        (
            f"name{RESERVED}:predict",
            "Servable not found for request: Latest(name!#$%&'()*+,/:;=?@[])",
        ),
        ("a%0A%00b%FF:predict", "Servable not found for request: Latest(a\n\x00b\ufffd)"),
    ],
)
def test_models_that_are_not_there(half, path, message):
    assert post(half, path, '{"instances": [1]}') == (404, {"error": message})


@pytest.mark.parametrize(
    "path, body, message",
    [
        ("half:predict", "", "JSON Parse error: The document is empty"),
        ("half:predict", "instances = [1, 2]", "JSON Parse error: Invalid value"),
        ("half:predict", '{"instances": ["x", "y"]}', "not of expected type: float"),
        (
            "half/labels/none:predict",
            '{"instances": ["x", "y"]}',
            "Unrecognized servable version label: none",
        ),
        (
            f"half/labels/latest{RESERVED}:predict",
            '{"instances": [1]}',
            "Unrecognized servable version label: latest!#$%&'()*+,/:;=?@[]",
        ),
        ("half:predict", '{"signature_name": 100}', "'signature_name' key must be a string value."),
        (
            "half:predict",
            '{"signature_name": "none", "instances": [1]}',
            'Serving signature name: "none" not found in signature def',
        ),
        (
            f"half/versions/{2**64 - 1}:predict",
            "{}",
            f"Failed to convert version: {2**64 - 1} to numeric.",
        ),
        (f"half/versions/{'9' * 5000}:predict", "{}", "Failed to convert version"),
        (
            "half:regress",
            '{"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}]}',
            "No signature was found with the name: regress_x_to_y",
        ),
        (
            "half:regress",
            '{"examples": [{"x": 80.0}]}',
            "Expected regression signature method_name to be tensorflow/serving/regress. "
            "Was: tensorflow/serving/predict",
        ),
        ("half:regress", '{"instances": [1]}', "key 'examples' is expected and was not found"),
        (
            "half:classify",
            '{"examples": [{"x": 80.0}]}',
            "Expected classification signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/predict",
        ),
    ],
)
def test_requests_that_are_refused(half, path, body, message):
    status, answer = post(half, path, body)
    assert status == 400
    assert message in answer["error"]


def version_status(number):
    return {
        "version": str(number),
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }


def test_status(half):
    both = {"model_version_status": [version_status(123), version_status(124)]}
    assert get(half, "half") == (200, both)
    assert get(half, "half/versions/124") == (200, {"model_version_status": [version_status(124)]})
    # A label chooses nothing here (get_model_status_impl.cc).
    assert get(half, "half/labels/stable%2F!") == (200, both)
    assert get(half, "foo") == (404, {"error": "Could not find any versions of model foo"})
    assert get(half, "half/versions/9") == (
        404,
        {"error": "Could not find version 9 of model half"},
    )


def test_the_layout_of_the_status(half):
    answer = ask(
        half.rest_address, "GET /v1/models/half/versions/123 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    assert answer.body.decode() == (
        "{\n"
        ' "model_version_status": [\n'
        "  {\n"
        '   "version": "123",\n'
        '   "state": "AVAILABLE",\n'
        '   "status": {\n'
        '    "error_code": "OK",\n'
        '    "error_message": ""\n'
        "   }\n"
        "  }\n"
        " ]\n"
        "}\n"
    )


@pytest.mark.parametrize(
    "path, version", [("half", 124), ("half/versions/123", 123), ("half/labels/stable%2F!", 123)]
)
def test_metadata(half, path, version):
    status, answer = get(half, f"{path}/metadata")
    assert status == 200
    assert set(answer) == {"model_spec", "metadata"}
    spec = {"name": "half", "signature_name": "", "version": str(version)}
    assert answer["model_spec"] == spec
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    unknown = {"dim": [], "unknown_rank": True}
    assert signatures["serving_default"] == {
        "inputs": {
            "x": {"dtype": "DT_FLOAT", "tensor_shape": unknown, "name": "serving_default_x:0"}
        },
        "outputs": {
            "y": {
                "dtype": "DT_FLOAT",
                "tensor_shape": unknown,
                "name": "PartitionedCall:0",
            }
        },
        "method_name": "tensorflow/serving/predict",
        # The message has had this field since TensorFlow 2.13.
        "defaults": {},
    }
