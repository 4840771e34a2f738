"""Messages as JSON: the cases of TensorFlow Serving's json_tensor_test.cc, layout included.

The layout was seen in answers that users of TensorFlow Serving report, such as
tensorflow/serving#1136, and is RapidJSON's (prettywriter.h).
"""

import json
import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2

from serving.server import tensor_protos
from serving.server.errors import RequestError
from serving.server.rest.json_writing import (
    error_json,
    outputs_json,
    predictions_json,
    results_json,
)
from serving.server.tensorflow_internals import TensorProto


def protos(**arrays):
    written = {}
    for name, array in arrays.items():
        written[name] = TensorProto()
        tensor_protos.write(np.asarray(array), written[name])
    return written


def strings(*rows):
    return np.array(rows, object)


NUMBERS = np.array([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 0], [1, 2]]], np.int32)
SEVERAL = {
    "dbl": np.array([8, 9], np.float64),
    "float": np.array([[1], [2]], np.float32),
    "int": NUMBERS,
    "str": strings([b"foo", b"bar"], [b"baz", b"bat"]),
    "str_bytes": strings([b"hello", b"world"], [b"tf", b"serving"]),
}


@pytest.mark.parametrize(
    "array, expected",
    [
        (NUMBERS, NUMBERS.tolist()),
        (np.arange(1, 6), [1, 2, 3, 4, 5]),
        (np.array([True, False]), [True, False]),
        (np.array([2**64 - 1], np.uint64), [2**64 - 1]),
        (np.array([-128], np.int8), [-128]),
        (strings(b'\xc3\xa9\n\x01"\\/\x7f'), ['é\n\x01"\\/\x7f']),
        (np.zeros((2, 0), np.int32), [[], []]),
        (np.zeros((0, 2), np.int32), []),
    ],
)
def test_one_output_has_no_name(array, expected):
    assert json.loads(predictions_json(protos(x=array))) == {"predictions": expected}
    assert json.loads(outputs_json(protos(x=array))) == {"outputs": expected}


def test_several_outputs_are_objects():
    rows = json.loads(predictions_json(protos(**SEVERAL)))["predictions"]
    assert rows == [
        {
            "dbl": 8.0,
            "float": [1.0],
            "int": [[1, 2], [3, 4], [5, 6]],
            "str": ["foo", "bar"],
            "str_bytes": [{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}],
        },
        {
            "dbl": 9.0,
            "float": [2.0],
            "int": [[7, 8], [9, 0], [1, 2]],
            "str": ["baz", "bat"],
            "str_bytes": [{"b64": "dGY="}, {"b64": "c2VydmluZw=="}],
        },
    ]
    columns = json.loads(outputs_json(protos(**SEVERAL)))["outputs"]
    assert columns == {name: [row[name] for row in rows] for name in SEVERAL}


def test_the_layout_of_rows():
    assert predictions_json(protos(y=np.array([3.5, 4, 5.5], np.float32))).decode() == (
        '{\n    "predictions": [3.5, 4.0, 5.5\n    ]\n}'
    )
    assert predictions_json(protos(y=np.array([[1, 2], [3, 4]]))).decode() == (
        '{\n    "predictions": [[1, 2], [3, 4]\n    ]\n}'
    )
    assert predictions_json(protos(a=[1], b_bytes=strings([b"tf"]))).decode() == (
        "{\n"
        '    "predictions": [\n'
        "        {\n"
        '            "a": 1,\n'
        '            "b_bytes": [{\n'
        '                    "b64": "dGY="\n'
        "                }]\n"
        "        }\n"
        "    ]\n"
        "}"
    )
    assert predictions_json(protos(b_bytes=strings(b"tf", b""))).decode() == (
        "{\n"
        '    "predictions": [{\n'
        '            "b64": "dGY="\n'
        "        }, {\n"
        '            "b64": ""\n'
        "        }\n"
        "    ]\n"
        "}"
    )


def test_the_layout_of_columns():
    # Python's JSON with four spaces has RapidJSON's default layout.
    for arrays in ({"x": NUMBERS}, SEVERAL, {"x": np.int32(3)}, {"x": np.zeros((2, 0), np.int64)}):
        text = outputs_json(protos(**arrays)).decode()
        assert text == json.dumps(json.loads(text), indent=4)


@pytest.mark.parametrize(
    "value, dtype, text",
    [
        # Six digits where they are enough, as json_tensor_test.cc has them.
        (9000000, np.float32, "9e+06"),
        (999999, np.float32, "999999.0"),
        (0.5, np.float32, "0.5"),
        (0.0003, np.float32, "0.0003"),
        (0.00003, np.float32, "3e-05"),
        (555557.5, np.float32, "555557.5"),
        (3, np.float32, "3.0"),
        (-0.0, np.float32, "-0.0"),
        (0.2, np.float64, "0.2"),
        (1 / 3, np.float64, "0.33333333333333331"),
        (1 / 3, np.float32, "0.333333343"),
        (math.nan, np.float32, "NaN"),
        (math.inf, np.float64, "Infinity"),
        (-math.inf, np.float32, "-Infinity"),
    ],
)
def test_decimals(value, dtype, text):
    written = predictions_json(protos(x=np.array([value], dtype))).decode()
    assert written == f'{{\n    "predictions": [{text}\n    ]\n}}'


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decimals_are_read_exactly(dtype):
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 256, 10_000 * dtype().itemsize, np.uint8).view(dtype)
    values = bits[np.isfinite(bits)]
    read = json.loads(predictions_json(protos(x=values)))["predictions"]
    np.testing.assert_array_equal(np.array(read).astype(dtype), values)


def test_bytes_that_are_not_utf8_pass():
    assert b'["\xff"' in predictions_json(protos(x=strings(b"\xff")))


def test_control_characters_are_escaped():
    text = predictions_json(protos(x=strings(b"\x00\x1f\b\f\n\r\t")))
    assert b'"\\u0000\\u001F\\b\\f\\n\\r\\t"' in text
    assert json.loads(error_json('a "b"\n\x00')) == {"error": 'a "b"\n\x00'}
    assert json.loads(error_json("not UTF-8: \udcff")) == {"error": "not UTF-8: ?"}
    assert error_json("x") == b'{\n    "error": "x"\n}'


@pytest.mark.parametrize(
    "outputs, message",
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        (protos(x=np.array([1j], np.complex64)), "tensor type: complex64"),
        (protos(x=np.array([1], np.float16)), "Failed to write JSON value for tensor type: half"),
        (protos(x=np.array([1], tf.bfloat16.as_numpy_dtype)), "tensor type: bfloat16"),
    ],
)
def test_outputs_that_cannot_be_written(outputs, message):
    for write in (predictions_json, outputs_json):
        with pytest.raises(RequestError, match=message):
            write(outputs)


def test_rows_need_one_batch_size():
    with pytest.raises(RequestError, match="Tensor name: x has no shape information "):
        predictions_json(protos(x=np.int32(1)))
    with pytest.raises(RequestError, match="y has inconsistent batch size: 1 expecting: 2"):
        predictions_json(protos(x=[1, 2], y=[1]))


def test_classes():
    result = classification_pb2.ClassificationResult()
    for scores in ((0.2, 0.7), (1, math.nan)):
        classes = result.classifications.add().classes
        for label, score in zip(("car", "Fahrrad é"), scores, strict=True):
            classes.add(label=label, score=score)
    assert results_json(result).decode() == (
        '{\n    "results": [[["car", 0.2], ["Fahrrad é", 0.7]], '
        '[["car", 1.0], ["Fahrrad é", NaN]]\n    ]\n}'
    )
    with pytest.raises(RequestError, match="Cannot convert empty ClassificationResults to JSON"):
        results_json(classification_pb2.ClassificationResult())
