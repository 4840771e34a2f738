"""Tensors in answers and requests, against recorded answers of TensorFlow Serving.

The answers are those of tensorflow_serving/g3doc/api_rest.md, util/json_tensor_test.cc and
model_servers/http_rest_api_handler_test.cc.
"""

import json

import numpy as np
import pytest
from tensorflow.core.framework import types_pb2

from igpt_keras import InputError
from serving.client import ServingError, rest_json
from serving.client.protocol import DTYPES
from tests.serving.rest_client.asking import HALF_PLUS_TWO, METADATA, PREDICT, ask, both, metadata
from tests.serving.rest_server import Reply
from tests.serving.test_protocol import ARRAYS

SEVERAL_OUTPUTS = b"""{
    "outputs": {
      "double_scalar_tensor": [8.0, 9.0],
      "float_tensor": [[1.0], [2.0]],
      "int_tensor": [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]],
      "str_tensor": [["foo", "bar"], ["baz", "bat"]],
      "str_tensor_bytes": [[{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}],
                           [{"b64": "dGY="}, {"b64": "c2VydmluZw=="}]]
    }}"""


@both
def test_the_example_of_the_documentation_is_answered(server, ask):
    server.replies = {METADATA: Reply(HALF_PLUS_TWO), PREDICT: Reply(b'{ "outputs": [3.5, 4.0] }')}
    outputs = ask(server.address, "predict", "serving_default", {"x": [3.0, 4.0]})
    assert outputs.keys() == {"y"}
    assert outputs["y"].dtype == np.float32
    assert outputs["y"].tolist() == [3.5, 4.0]
    (body,) = server.bodies(PREDICT)
    assert json.loads(body) == {"signature_name": "serving_default", "inputs": {"x": [3.0, 4.0]}}


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
        (b'[{"b64": "Y*Q=="}]', "DT_STRING"),
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
