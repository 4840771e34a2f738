"""The client over REST, against recorded answers of TensorFlow Serving and of what is none.

The answers are those of tensorflow_serving/g3doc/api_rest.md, util/json_tensor_test.cc and
model_servers/http_rest_api_handler_test.cc.
"""

import asyncio
import base64
import itertools
import json
import pathlib
import socket
import threading
import urllib.parse

import grpc
import numpy as np
import pytest
from tensorflow.core.framework import types_pb2

from igpt_keras import InputError
from igpt_keras.sampling.requests import completion_seeds
from igpt_keras.sampling.samplers import Categorical
from serving.client import (
    TLS,
    AsyncClient,
    Client,
    MissingSignatureError,
    RetryPolicy,
    ServingError,
    VersionStatus,
    rest_json,
)
from serving.client.carriers import ModelSpec
from serving.client.images import encoded_images
from serving.client.protocol import DTYPES
from serving.client.queries import Served
from serving.client.rest import RestCarrier
from tests.serving.rest_server import Reply, rest_server
from tests.serving.test_protocol import ARRAYS

CERTIFICATES = pathlib.Path(__file__).parents[1] / "fixtures" / "tls"
QUICKLY = RetryPolicy(attempts=4, initial_pause=0.01, seed=0)
IMAGE = np.zeros((1, 2, 2, 3), np.uint8)
MODEL = "/v1/models/igpt"
PREDICT, METADATA = f"{MODEL}:predict", f"{MODEL}/metadata"
HTML = b"<!DOCTYPE html>\n<html>\n<head><title>Sign in</title></head></html>\n"

HALF_PLUS_TWO = b"""{
 "model_spec": {
  "name": "igpt",
  "signature_name": "",
  "version": "123"
 },
 "metadata": {
  "signature_def": {
   "signature_def": {
    "serving_default": {
     "inputs": {
      "x": {
       "dtype": "DT_FLOAT",
       "tensor_shape": {
        "dim": [
         {
          "size": "-1",
          "name": ""
         },
         {
          "size": "1",
          "name": ""
         }
        ],
        "unknown_rank": false
       },
       "name": "x:0"
      }
     },
     "outputs": {
      "y": {
       "dtype": "DT_FLOAT",
       "tensor_shape": {
        "dim": [
         {
          "size": "-1",
          "name": ""
         },
         {
          "size": "1",
          "name": ""
         }
        ],
        "unknown_rank": false
       },
       "name": "y:0"
      }
     },
     "method_name": "tensorflow/serving/predict",
     "defaults": {}
    },
    "classify_x_to_y": {
     "inputs": {
      "inputs": {
       "dtype": "DT_STRING",
       "tensor_shape": {
        "dim": [],
        "unknown_rank": true
       },
       "name": "tf_example:0"
      }
     },
     "outputs": {
      "scores": {
       "dtype": "DT_FLOAT",
       "tensor_shape": {
        "dim": [],
        "unknown_rank": true
       },
       "name": "y:0"
      }
     },
     "method_name": "tensorflow/serving/classify",
     "defaults": {}
    },
    "__saved_model_init_op": {
     "inputs": {},
     "outputs": {},
     "method_name": "",
     "defaults": {}
    }
   }
  }
 }
}
"""
STATUS = b"""{
 "model_version_status": [
  {
   "version": "123",
   "state": "AVAILABLE",
   "status": {
    "error_code": "OK",
    "error_message": ""
   }
  }
 ]
}
"""
SEVERAL_OUTPUTS = b"""{
    "outputs": {
      "double_scalar_tensor": [8.0, 9.0],
      "float_tensor": [[1.0], [2.0]],
      "int_tensor": [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]],
      "str_tensor": [["foo", "bar"], ["baz", "bat"]],
      "str_tensor_bytes": [[{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}],
                           [{"b64": "dGY="}, {"b64": "c2VydmluZw=="}]]
    }}"""


def metadata(inputs, outputs, name="features"):
    """The answer that has one signature, with dtypes by name."""
    signature = {
        key: {tensor: {"dtype": dtype} for tensor, dtype in tensors.items()}
        for key, tensors in (("inputs", inputs), ("outputs", outputs))
    }
    return Reply(
        json.dumps({"metadata": {"signature_def": {"signature_def": {name: signature}}}}).encode()
    )


FEATURES = metadata({"image_bytes": "DT_STRING"}, {"features": "DT_FLOAT"})


@pytest.fixture
def server():
    replies = {METADATA: FEATURES, PREDICT: Reply(b'{"outputs": [[0.5, 1.0, 2.0]]}')}
    with rest_server(replies) as server:
        yield server


def ask(address, method="features", *arguments, **options):
    with Client(address, **options) as client:
        return getattr(client, method)(*(arguments or (IMAGE,)))


def ask_asynchronously(address, method="features", *arguments, **options):
    async def run():
        async with AsyncClient(address, **options) as client:
            return await getattr(client, method)(*(arguments or (IMAGE,)))

    return asyncio.run(run())


both = pytest.mark.parametrize("ask", [ask, ask_asynchronously])


@both
def test_the_example_of_the_documentation_is_answered(server, ask):
    server.replies = {METADATA: Reply(HALF_PLUS_TWO), PREDICT: Reply(b'{ "outputs": [3.5, 4.0] }')}
    outputs = ask(server.address, "predict", "serving_default", {"x": [3.0, 4.0]})
    assert outputs.keys() == {"y"}
    assert outputs["y"].dtype == np.float32
    assert outputs["y"].tolist() == [3.5, 4.0]
    (body,) = server.bodies(PREDICT)
    assert json.loads(body) == {"signature_name": "serving_default", "inputs": {"x": [3.0, 4.0]}}


def test_dtypes_are_asked_for_once(server):
    server.replies = {METADATA: Reply(HALF_PLUS_TWO), PREDICT: Reply(b'{ "outputs": [3.5, 4.0] }')}
    with Client(server.address) as client:
        for _ in range(3):
            client.predict("", {"x": [3.0, 4.0]})
        assert client.signatures() == ["classify_x_to_y", "serving_default"]
    assert len(server.bodies(METADATA)) == 2
    assert [request.method for request in server.requests] == ["GET", *["POST"] * 3, "GET"]


def test_a_new_version_may_have_other_inputs_and_outputs(server):
    old, new = (
        metadata({"x": "DT_FLOAT"}, {"y": "DT_FLOAT"}),
        metadata({"x": "DT_FLOAT"}, {"y": "DT_INT32", "z": "DT_INT32"}),
    )
    newest = metadata({"w": "DT_FLOAT"}, {"y": "DT_INT32", "z": "DT_INT32"})
    server.replies = {
        METADATA: [old, new, newest],
        PREDICT: [Reply(b'{"outputs": [1.5]}'), Reply(b'{"outputs": {"y": [1], "z": [2]}}')],
    }
    with Client(server.address) as client:
        assert client.predict("features", {"x": [0.0]})["y"].dtype == np.float32
        assert client.predict("features", {"x": [0.0]})["z"].dtype == np.int32
        assert client.predict("features", {"w": [0.0]}, ["z"]).keys() == {"z"}
        with pytest.raises(ServingError, match=r"INVALID_ARGUMENT: inputs must be \['w'\], got"):
            client.predict("features", {"w": [0.0], "x": [0.0]})
        with pytest.raises(ServingError, match=r"outputs must be among \['y', 'z'\], got \['u'\]"):
            client.predict("features", {"w": [0.0]}, ["u"])
    assert len(server.bodies(PREDICT)) == 3


@both
def test_several_outputs_have_the_dtypes_of_the_signature(server, ask):
    dtypes = {
        "double_scalar_tensor": "DT_DOUBLE",
        "float_tensor": "DT_FLOAT",
        "int_tensor": "DT_INT32",
    }
    dtypes |= {"str_tensor": "DT_STRING", "str_tensor_bytes": "DT_STRING"}
    server.replies = {
        METADATA: metadata({"x": "DT_FLOAT"}, dtypes),
        PREDICT: Reply(SEVERAL_OUTPUTS),
    }
    outputs = ask(server.address, "predict", "features", {"x": [1.0, 2.0]})
    expected = {
        "double_scalar_tensor": np.array([8.0, 9.0]),
        "float_tensor": np.array([[1], [2]], np.float32),
        "int_tensor": np.array([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]], np.int32),
        "str_tensor": np.array([[b"foo", b"bar"], [b"baz", b"bat"]], object),
        "str_tensor_bytes": np.array([[b"hello", b"world"], [b"tf", b"serving"]], object),
    }
    assert outputs.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(outputs[name], values)
        assert outputs[name].dtype == values.dtype


@pytest.mark.parametrize(
    ("written", "dtype", "expected"),
    [
        (b"[[NaN, Infinity], [3.0, -Infinity]]", "DT_FLOAT", [[np.nan, np.inf], [3, -np.inf]]),
        (b"[9e+06, 999999.0, 0.5]", "DT_FLOAT", np.float32([9000000, 999999, 0.5])),
        (b"[0.0003, 3e-05, 555557.5]", "DT_FLOAT", np.float32([0.0003, 0.00003, 555557.5])),
        (b"[0.100000001, 16777216.0]", "DT_FLOAT", np.float32([0.1, 16777216])),
        (b"[1, 2]", "DT_FLOAT", [1, 2]),
        (b"[18446744073709551615, 0]", "DT_UINT64", np.array([2**64 - 1, 0], np.uint64)),
        (b"[-9223372036854775808, 9223372036854775807]", "DT_INT64", [-(2**63), 2**63 - 1]),
        (b"[[true], [false]]", "DT_BOOL", [[True], [False]]),
        (b"[[], []]", "DT_INT32", np.zeros((2, 0))),
        (
            '["é", "\\u00e9\\u0000"]'.encode(),
            "DT_STRING",
            np.array(["é".encode(), "é\0".encode()], object),
        ),
        (b'["\xff\xfe", "a"]', "DT_STRING", np.array([b"\xff\xfe", b"a"], object)),
    ],
)
def test_values_are_read_as_tensorflow_serving_writes_them(server, written, dtype, expected):
    server.replies = {
        METADATA: metadata({"x": "DT_FLOAT"}, {"y": dtype}),
        PREDICT: Reply(b'{"outputs": ' + written + b"}"),
    }
    count = len(np.asarray(expected))
    outputs = ask(server.address, "predict", "features", {"x": np.zeros(count)})
    np.testing.assert_array_equal(outputs["y"], expected)
    assert outputs["y"].dtype == rest_json.DTYPES_BY_NAME[dtype]


def test_names_of_dtypes_are_those_of_tensorflow():
    names = {number: types_pb2.DataType.Name(number) for number in DTYPES}
    assert rest_json.DTYPES_BY_NAME == {name: DTYPES[number][0] for number, name in names.items()}


@pytest.mark.parametrize("values", ARRAYS, ids=lambda values: f"{values.dtype}{values.shape}")
def test_what_is_written_is_read_again(values):
    (name,) = [name for name, dtype in rest_json.DTYPES_BY_NAME.items() if dtype == values.dtype]
    written = json.loads(json.dumps(rest_json.json_tensor(values)))
    if values.dtype != object:
        assert written == values.tolist() or np.isnan(values).any()
    read = rest_json.array(written, name)
    np.testing.assert_array_equal(read.reshape(values.shape), values)
    assert read.dtype == values.dtype


def test_no_part_of_a_request_is_larger_than_reckoned():
    carrier = RestCarrier("http://localhost:1", ModelSpec("igpt"), None, 1000)
    extreme = [np.finfo(np.float64).min, -5e-324, 1 / 3]
    strings = [b"", b"a", b"ab" * 500]
    arrays = [
        *(values for values in ARRAYS if values.ndim),
        np.array(extreme),
        np.array(strings, object),
        np.array(strings),
    ]
    for values in arrays:
        written = json.dumps(rest_json.json_tensor(values), separators=(",", ":"))
        lists = sum(written.count(bracket) for bracket in ("[", "]", "],"))
        assert len(written) - lists <= carrier.bytes_of_each(values).sum()
    served = Served(carrier, batch_size=99, max_message_bytes=1000)
    contents = np.array([b"a" * 150] * 5, object)
    assert [len(contents[part]) for part in served.parts({"image_bytes": contents})] == [2, 2, 1]


def test_completions_are_asked_for_by_name(server):
    outputs = {
        "pixels": "DT_UINT8",
        "tokens": "DT_INT32",
        "log_likelihood": "DT_FLOAT",
        "png_bytes": "DT_STRING",
    }
    inputs = ("image_bytes", "keep_rows", "temperature", "top_k", "top_p", "seed")
    answer = {
        "pixels": np.arange(24).reshape(2, 2, 2, 3).tolist(),
        "tokens": [[1, 2, 3, 4], [5, 6, 7, 8]],
        "log_likelihood": [-1.5, -2.5],
        "png_bytes": [{"b64": "cG5n"}] * 2,
    }
    server.replies = {
        METADATA: metadata(dict.fromkeys(inputs, "DT_FLOAT"), outputs, "complete"),
        PREDICT: Reply(json.dumps({"outputs": answer}).encode()),
    }
    with Client(server.address) as client:
        completions = client.complete(
            IMAGE, keep_rows=1, num_completions=2, sampler=Categorical(0.9, top_k=3), seed=7
        )
    assert completions.images.dtype == np.uint8
    assert completions.images.shape == (1, 2, 2, 2, 3)
    assert completions.images.flatten().tolist() == [*range(24)]
    assert completions.tokens[0].tolist() == answer["tokens"]
    assert completions.log_likelihood.tolist() == [[-1.5, -2.5]]
    request = json.loads(server.bodies(PREDICT)[0])
    assert request["signature_name"] == "complete"
    sent = request["inputs"]
    assert [base64.b64decode(image["b64"]) for image in sent["image_bytes"]] == [
        *encoded_images(IMAGE)
    ] * 2
    assert sent["seed"] == completion_seeds(7, 1, 2)[0].tolist()
    assert np.float32(sent["temperature"]).tolist() == np.float32([0.9, 0.9]).tolist()
    assert (sent["keep_rows"], sent["top_k"], sent["top_p"]) == ([1, 1], [3, 3], [1.0, 1.0])


@both
def test_the_status_of_versions_is_read(server, ask):
    server.replies[MODEL] = Reply(STATUS)
    with Client(server.address) as client:
        assert client.status() == [VersionStatus(123, "AVAILABLE", "")]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"model_name": "photos", "version": 7}, "/v1/models/photos/versions/7"),
        ({"version": 0}, f"{MODEL}/versions/0"),
        ({"version_label": "stable"}, f"{MODEL}/labels/stable"),
        (
            {"model_name": "modelname!#$%&'()*+,/:;=?@[]", "version_label": "latest !é/%2F"},
            "/v1/models/modelname%21%23%24%25%26%27%28%29%2A%2B%2C%2F%3A%3B%3D%3F%40%5B%5D"
            "/labels/latest%20%21%C3%A9%2F%252F",
        ),
    ],
    ids=["version", "version 0", "label", "reserved"],
)
def test_versions_and_labels_are_in_the_path(server, options, path):
    replies = {
        path: Reply(STATUS),
        f"{path}/metadata": FEATURES,
        f"{path}:predict": server.replies[PREDICT],
    }

    def find(asked):
        # TensorFlow Serving splits a path first and unescapes its parts then.
        parts = [urllib.parse.unquote(part) for part in asked.split("/")]
        (found,) = [
            reply
            for known, reply in replies.items()
            if [urllib.parse.unquote(part) for part in known.split("/")] == parts
        ]
        return found

    server.reply = find
    with Client(server.address, **options) as client:
        assert client.features(IMAGE).tolist() == [[0.5, 1.0, 2.0]]
        assert client.status()[0].version == 123


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
    with pytest.raises(MissingSignatureError, match="a generative model has no classes"):
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
    ):
        server.replies[PREDICT] = Reply(b'{ "error": "no" }', status)
        with pytest.raises(ServingError, match=code):
            ask(server.address, retries=QUICKLY)
    assert len(server.bodies(PREDICT)) == 3


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


@pytest.mark.parametrize(
    ("written", "dtype"),
    [
        (b"[1.5]", "DT_INT32"),
        (b"[300]", "DT_UINT8"),
        (b"[-1]", "DT_UINT64"),
        (b"[true]", "DT_INT32"),
        (b"[1]", "DT_BOOL"),
        (b"[1]", "DT_STRING"),
        (b'[{"b64": "a"}]', "DT_STRING"),
        (b'[{"b65": "YQ=="}]', "DT_STRING"),
        (b'[["a"], ["a", "b"]]', "DT_STRING"),
    ],
)
def test_values_of_another_dtype_are_refused(server, written, dtype):
    server.replies = {
        METADATA: metadata({"x": "DT_FLOAT"}, {"y": dtype}),
        PREDICT: Reply(b'{"outputs": ' + written + b"}"),
    }
    with pytest.raises(ServingError, match="UNKNOWN: an answer that no model server gives"):
        ask(server.address, "predict", "features", {"x": [1.0]})


def test_a_dtype_that_numpy_lacks_is_named(server):
    server.replies[METADATA] = metadata({"x": "DT_FLOAT"}, {"y": "DT_BFLOAT16"})
    with pytest.raises(InputError, match="dtype DT_BFLOAT16 cannot be read"):
        ask(server.address, "predict", "features", {"x": [1.0]})
    with pytest.raises(InputError, match="got datetime64"):
        ask(server.address, "predict", "features", {"x": np.zeros(1, "datetime64[s]")})


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


@both
def test_a_request_above_the_limit_is_an_error(server, ask):
    server.replies[METADATA] = metadata({"x": "DT_FLOAT"}, {"y": "DT_FLOAT"})
    inputs = {"x": np.full((1, 60), 1 / 3)}
    with pytest.raises(ServingError, match="RESOURCE_EXHAUSTED: a request of .* 999"):
        ask(server.address, "predict", "features", inputs, max_message_bytes=999)
    assert not server.bodies(PREDICT)


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


def drops(released):
    """A byte now and then, until the client has gone or should have."""
    for _ in range(400):
        if released.wait(0.05):
            return
        yield b" "


@both
@pytest.mark.parametrize("status", [200, 503])
def test_the_deadline_is_kept(server, ask, status):
    released = threading.Event()
    server.replies[PREDICT] = Reply(drops(released), status)
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED: no answer within the timeout"):
        ask(server.address, timeout=0.5)
    assert server.left.wait(30)
    released.set()


@both
def test_a_silent_server_is_left(ask):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
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


def test_threads_and_tasks_share_a_client(server):
    with Client(server.address) as client:
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.features(IMAGE)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 8

    async def run():
        async with AsyncClient(server.address) as other:
            return await asyncio.gather(*(other.features(IMAGE) for _ in range(8)))

    answers += asyncio.run(run())
    assert all(answer.tolist() == [[0.5, 1.0, 2.0]] for answer in answers)


@both
def test_the_proxy_of_the_environment_is_asked(server, ask, monkeypatch):
    server.reply = lambda url: server.replies[url.removeprefix("http://model.example:8501")]
    monkeypatch.setenv("http_proxy", server.address)
    assert ask("http://model.example:8501").shape == (1, 3)
    assert server.requests[-1].path == f"http://model.example:8501{PREDICT}"
    assert server.requests[-1].headers["Host"] == "model.example:8501"


@pytest.fixture(params=[None, CERTIFICATES / "ca.pem"], ids=["any client", "known clients"])
def encrypted(request, server):
    server.encrypt(CERTIFICATES / "named.pem", CERTIFICATES / "named.key", request.param)
    return server.address, request.param is not None


@both
def test_connections_are_encrypted(encrypted, ask):
    address, asks_for_certificate = encrypted
    trusted = {"root_certificates": CERTIFICATES / "ca.pem", "server_name": "images.example"}
    own = {
        "client_certificate": CERTIFICATES / "client.pem",
        "client_key": CERTIFICATES / "client.key",
    }
    options = {"retries": RetryPolicy(attempts=1), "timeout": 20}
    assert ask(address, tls=TLS(**trusted, **own), **options).shape == (1, 3)
    refused = [{"server_name": "images.example"}, {"root_certificates": CERTIFICATES / "ca.pem"}]
    if asks_for_certificate:
        refused.append(trusted)
    else:
        assert ask(address, tls=TLS(**trusted), **options).shape == (1, 3)
    for tls in (None, *(TLS(**settings) for settings in refused)):
        with pytest.raises(ServingError, match="UNAVAILABLE"):
            ask(address, tls=tls, **options)
    with pytest.raises(ServingError, match="UNAVAILABLE"):
        ask(address.replace("https", "http"), **options)


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_settings_of_tls_are_checked(client, tmp_path):
    with pytest.raises(InputError, match='tls goes with an address "https://host:port", got'):
        client("http://localhost:1", tls=TLS())
    missing, other = tmp_path / "missing.pem", tmp_path / "other.pem"
    other.write_text("no certificate")
    with pytest.raises(FileNotFoundError, match="missing.pem"):
        client("https://localhost:1", tls=TLS(missing))
    with pytest.raises(FileNotFoundError, match="missing.pem"):
        client("https://localhost:1", tls=TLS(None, CERTIFICATES / "client.pem", missing))
    with pytest.raises(InputError, match="root_certificates must be PEM files, got .*other.pem"):
        client("https://localhost:1", tls=TLS(other))
    with pytest.raises(InputError, match="client_key must be PEM files, got .*other.pem"):
        client("https://localhost:1", tls=TLS(None, other, CERTIFICATES / "client.key"))


@pytest.mark.parametrize(
    "address",
    ["http://localhost", "http://localhost:1/", "https://[::1]:8501", "http://10.0.0.7:65535"],
)
def test_addresses_of_rest_are_taken(address):
    with Client(address) as client:
        assert client.address == address


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_host_that_cannot_be_is_refused(client):
    with pytest.raises(InputError, match="address must name a host, got 'http://.1.:1'"):
        client("http://[1]:1")
