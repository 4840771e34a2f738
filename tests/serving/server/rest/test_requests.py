"""JSON as messages: the cases of TensorFlow Serving's json_tensor_test.cc and api_rest.md."""

import math

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import input_pb2, model_pb2

from serving.server.errors import RequestError
from serving.server.rest.json_reading import MAX_VALUES
from serving.server.rest.requests import fill_examples, predict_inputs, read_request
from serving.server.tensorflow_internals import SignatureDef, TensorProto


def infos(**dtypes):
    """`TensorInfo`s by the inputs' names."""
    signature = SignatureDef()
    for name, dtype in dtypes.items():
        signature.inputs[name].dtype = tf.dtypes.as_dtype(dtype).as_datatype_enum
    return signature.inputs


def read(text, **dtypes):
    """The inputs in a request as (shape, values) by name, and whether it has row format."""
    body = text if isinstance(text, bytes) else text.encode()
    document = read_request(body, model_pb2.ModelSpec())
    tensors, in_rows = predict_inputs(document, infos(**dtypes))
    arrays = {}
    for name, proto in tensors.items():
        assert isinstance(proto, TensorProto)
        array = tf.make_ndarray(proto)
        arrays[name] = (array.shape, array.reshape(-1).tolist())
    return arrays, in_rows


@pytest.mark.parametrize(
    "text, dtype, shape, values",
    [
        ("[[1,2],[3,4],[5,6]]", "int32", (3, 2), [1, 2, 3, 4, 5, 6]),
        ("[[-128, 127]]", "int8", (1, 2), [-128, 127]),
        ("[0, 255]", "uint8", (2,), [0, 255]),
        ("[9223372036854775807, -9223372036854775808]", "int64", (2,), [2**63 - 1, -(2**63)]),
        ("[18446744073709551615]", "uint64", (1,), [2**64 - 1]),
        ("[4294967295, -0]", "uint32", (2,), [2**32 - 1, 0]),
        ("[1, 2.0, 3, 4, 0.662, 0, 0.0]", "float64", (7,), [1, 2, 3, 4, 0.662, 0, 0]),
        # Integers that a float does not hold become the nearest one, as the documentation says.
        ("[1435774380]", "float32", (1,), [1435774336]),
        (
            "[1e2, 1E-2, 123456789012345678901]",
            "float64",
            (3,),
            [100, 0.01, 123456789012345678901.0],
        ),
        ("[true, false]", "bool", (2,), [True, False]),
        ('["foo", "", "\\u00e9\\n\\ud83d\\ude00"]', "string", (3,), ["foo", "", "é\n😀"]),
        ('[{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]', "string", (2,), ["hello", "world"]),
        ('[[{"b64": "aGVsbG8="}], [{"b64": "d29ybGQ="}]]', "string", (2, 1), ["hello", "world"]),
        # Abseil decodes base64 with spaces and without padding.
        ('[{"b64": "aGVs bG8"}, {"b64": "dGY."}]', "string", (2,), ["hello", "tf"]),
        ("[[], []]", "float32", (2, 0), []),
    ],
)
def test_one_input_without_a_name(text, dtype, shape, values):
    if dtype == "string":
        values = [value.encode() for value in values]
    for row in (True, False):
        request = f'{{"{"instances" if row else "inputs"}": {text}}}'
        assert read(request, default=dtype) == ({"default": (shape, values)}, row)
    assert read(f'{{"inputs": {{"default": {text}}}}}', default=dtype)[0]["default"][0] == shape


def test_one_input_with_a_name():
    text = '{"instances": [{"default": [[{"b64": "aGVsbG8="}], [{"b64": "d29ybGQ="}]]}]}'
    assert read(text, default="string")[0] == {"default": ((1, 2, 1), [b"hello", b"world"])}


def test_several_inputs_in_rows():
    text = """{"instances": [
        {"int": [[1,2],[3,4],[5,6]], "str": ["foo", "bar"], "float": [1.0, NaN], "dbl": [NaN]},
        {"int": [[7,8],[9,0],[1,2]], "str": ["baz", "bat"], "float": [2, -Infinity], "dbl": [2.0]}
    ]}"""
    inputs, in_rows = read(text, int="int32", str="string", float="float32", dbl="float64")
    assert in_rows
    assert inputs["int"] == ((2, 3, 2), [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2])
    assert inputs["str"] == ((2, 2), [b"foo", b"bar", b"baz", b"bat"])
    shape, (one, nan, two, infinity) = inputs["float"]
    assert (shape, one, two, infinity) == ((2, 2), 1, 2, -math.inf) and math.isnan(nan)
    shape, (nan, two) = inputs["dbl"]
    assert (shape, two) == ((2, 1), 2) and math.isnan(nan)


def test_several_inputs_in_columns():
    text = """{"inputs": {"int": [[[1,2],[3,4],[5,6]]], "str": ["foo", "bar"],
        "bin": {"b64": "aGVsbG8="}, "unknown": 1}}"""
    inputs, in_rows = read(text, int="int32", str="string", bin="string")
    assert not in_rows
    assert inputs == {
        "int": ((1, 3, 2), [1, 2, 3, 4, 5, 6]),
        "str": ((2,), [b"foo", b"bar"]),
        "bin": ((), [b"hello"]),
    }


def test_bytes_that_are_not_utf8_pass():
    assert read(b'{"instances": ["\xff\xfe"]}', x="string")[0] == {"x": ((1,), [b"\xff\xfe"])}


def test_a_byte_order_mark_and_spaces_pass():
    assert read(b'\xef\xbb\xbf {"inputs":\t[1] }\r\n', x="int32")[0] == {"x": ((1,), [1])}


def test_of_members_with_one_name_the_first_counts():
    text = '{"inputs": {"x": [1], "x": [2]}, "inputs": {"x": [3]}}'
    assert read(text, x="int32")[0] == {"x": ((1,), [1])}


def test_the_signature_is_named():
    spec = model_pb2.ModelSpec()
    read_request(b'{"signature_name": "predict_images", "instances": [[1,2]]}', spec)
    assert spec.signature_name == "predict_images"


# Of numbers out of range: json_tensor_test.cc also refuses 16777217, which the documentation,
# written later, says is converted.
@pytest.mark.parametrize(
    "text, dtypes, message",
    [
        ("", {}, "JSON Parse error: The document is empty"),
        ("  ", {}, "JSON Parse error: The document is empty. at offset: 2"),
        ("instances = [1, 2]", {}, "JSON Parse error: Invalid value. at offset: 0"),
        ('{"a" 1}', {}, "Missing a colon after a name of object member. at offset: 5"),
        ("{1: 2}", {}, "Missing a name for object member. at offset: 1"),
        ('{"a": 1,}', {}, "Missing a name for object member."),
        ('{"a": [1 2]}', {}, "Missing a comma or ']' after an array element. at offset: 9"),
        ('{"[": 1 "c": 2}', {}, "Missing a comma or '}' after an object member. at offset: 8"),
        ('{"é": "', {}, "Missing a closing quotation mark in string. at offset: 7"),
        ('{"a": "\\x"}', {}, "Invalid escape character in string."),
        ('{"a": "\\u12g4"}', {}, "Incorrect hex digit after \\u escape in string."),
        ("{} {}", {}, "The document root must not be followed by other values. at offset: 3"),
        ("[1]", {}, "JSON Value: [\n    1\n] Is not object"),
        ("1.5", {}, "JSON Value: 1.5 Is not object"),
        ("[" * 100_000, {}, "nested too deep"),
        ('{"a": ' * 100_000, {}, "nested too deep"),
        (f"[{'1,' * MAX_VALUES}1]", {}, f"at most {MAX_VALUES} values"),
        ('{"signature_name": 5, "instances": [1]}', {}, "'signature_name' key must be a string"),
        ('{"instances": [1], "inputs": [1]}', {}, "expecting only one of 'inputs' or 'instances'"),
        ('{"instances": 1}', {}, "Excepting 'instances' to be an list/array"),
        ('{"instances": []}', {}, "No values in 'instances' array"),
        ("{}", {}, "Missing 'inputs' or 'instances' key"),
        (
            '{"instances": [[1,2],[3,4],[5,6,7]]}',
            {},
            "Failed to process element: 2 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting tensor size: 2 but got: 3",
        ),
        ('{"instances": [[1,2],[3,4],[[5,6]]]}', {}, "Expecting shape [2] but got: [1,2]"),
        ('{"instances": [1, [1]]}', {}, "Expecting shape [] but got: [1]"),
        (
            '{"instances": [[1,2],["a", "b"]]}',
            {},
            'JSON Value: "a" Type: String is not of expected type: int32',
        ),
        ('{"inputs": [[1, [2]]]}', {}, "Encountered list at unexpected level: 2 expected < 2"),
        (
            '{"inputs": [[1], 2]}',
            {},
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (
            '{"inputs": [[1], [2, 3]]}',
            {},
            "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
        ),
        ('{"inputs": [1.0]}', {}, "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ('{"inputs": [2147483648]}', {}, "is not of expected type: int32"),
        ('{"inputs": [null]}', {}, "JSON Value: null Type: Null is not of expected type: int32"),
        ('{"inputs": [true]}', {"x": "float32"}, "Type: True is not of expected type: float"),
        ('{"inputs": [1]}', {"x": "string"}, "Type: Number is not of expected type: string"),
        ('{"inputs": [1]}', {"x": "bool"}, "Type: Number is not of expected type: bool"),
        ('{"inputs": [-1]}', {"x": "uint64"}, "is not of expected type: uint64"),
        ('{"inputs": [9223372036854775808]}', {"x": "int64"}, "is not of expected type: int64"),
        (
            '{"inputs": [1.7976931348623157e308]}',
            {"x": "float32"},
            "Cannot convert JSON value: 1.7976931348623157e+308 to float without loss of prec",
        ),
        ('{"inputs": [1e999]}', {"x": "float64"}, "Number too big to be stored in double."),
        (f'{{"inputs": [1{"0" * 400}]}}', {"x": "float32"}, "Number too big"),
        (f'{{"inputs": [1{"0" * 5000}]}}', {"x": "float32"}, "Number too big"),
        ('{"inputs": [1]}', {"x": "float16"}, "Conversion of JSON Value: 1 to type: half"),
        ('{"inputs": ["\\ud800"]}', {"x": "string"}, "The surrogate pair in string is invalid."),
        ('{"inputs": [{"b64": "a"}]}', {"x": "string"}, "Unable to base64 decode"),
        ('{"inputs": [{"b64": "aGVsbG8=="}]}', {"x": "string"}, "Unable to base64 decode"),
        ('{"inputs": [{"b64": "é"}]}', {"x": "string"}, "Unable to base64 decode"),
        ('{"inputs": [{"b64": 1}]}', {"x": "string"}, "not formatted correctly for base64 data"),
        ('{"inputs": [{"a": 1}]}', {}, "Type: Object is not of expected type: int32"),
        (f'{{"inputs": {"[" * 300}1{"]" * 300}}}', {}, "at most 254 dimensions, got 300"),
    ],
)
def test_one_input_is_refused(text, dtypes, message):
    with pytest.raises(RequestError) as caught:
        read(text, **(dtypes or {"x": "int32"}))
    assert message in str(caught.value)
    assert caught.value.code.name == ("UNIMPLEMENTED" if "half" in message else "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"instances": [1]}', "instances is a plain list, but expecting list of objects"),
        ('{"inputs": [1]}', "inputs is a plain value/list, but expecting an object"),
        ('{"inputs": {"int": [1]}}', "Missing named input: str in 'inputs' object."),
        (
            '{"instances": [{"int": [1], "str": ["a"]}, {"int": [[1]], "str": ["a"]}]}',
            "Failed to process element: 1 key: int of 'instances' list. "
            "Error: INVALID_ARGUMENT: Expecting shape [1] but got: [1,1]",
        ),
        ('{"instances": [{"int": [1], "str": ["a"]}, [1]]}', "Expecting object but got list at it"),
        ('{"instances": [{"int": 1}]}', "must only have keys: int,str"),
        ('{"instances": [{"else": 1}]}', "JSON object: does not have named input: else"),
    ],
)
def test_several_inputs_are_refused(text, message):
    with pytest.raises(RequestError) as caught:
        read(text, int="int32", str="string")
    assert message in str(caught.value)


def test_objects_among_values_are_refused():
    with pytest.raises(RequestError, match="Expecting value/list but got object at item 1"):
        read('{"instances": [["baz", "bar"], {"str": ["baz", "bat"]}]}', str="string")


def test_a_long_value_is_not_repeated_whole():
    with pytest.raises(RequestError) as caught:
        read(f'{{"instances": 1, "else": "{"x" * 1_000_000}"}}', x="int32")
    assert str(caught.value).endswith("… Excepting 'instances' to be an list/array")
    assert len(str(caught.value)) < 1000


def examples(text):
    filled = input_pb2.Input()
    fill_examples(read_request(text.encode(), model_pb2.ModelSpec()), filled)
    return filled


def test_examples():
    expected = """example_list {
        examples { features {
            feature { key: "names" value { bytes_list { value: "foo" value: "bar" } } }
            feature { key: "ratings" value { float_list { value: 8 value: 9 value: inf } } }
            feature { key: "age" value { int64_list { value: 20 } } } } }
        examples { features {
            feature { key: "names" value { bytes_list { value: "baz" value: "hello" } } }
            feature { key: "none" value { } }
            feature { key: "mix" value { int64_list { value: 1 value: 1 value: 0 } } } } } }"""
    text = """{"examples": [
        {"names": ["foo", "bar"], "ratings": [8.0, 9.0, Infinity], "age": 20},
        {"names": ["baz", {"b64": "aGVsbG8="}], "none": [], "mix": [1, true, false]}]}"""
    assert examples(text) == text_format.Parse(expected, input_pb2.Input())


def test_examples_with_context():
    expected = """example_list_with_context {
        context { features {
            feature { key: "query" value { bytes_list { value: "pizza" } } }
            feature { key: "at" value { bytes_list { value: "sfo" } } } } }
        examples { features {
            feature { key: "ratings" value { float_list { value: -inf } } } } } }"""
    text = """{"context": {"query": "pizza", "at": ["sfo"]},
        "examples": [{"ratings": -Infinity}]}"""
    assert examples(text) == text_format.Parse(expected, input_pb2.Input())


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"signature_name": ["a"], "examples": [{"a": 1}]}', "'signature_name' key must be a st"),
        (
            '{"context": [{"a": 1}], "examples": [{}]}',
            "Example must be JSON object but got JSON Ar",
        ),
        ("{}", "When method is classify, key 'examples' is expected and was not found"),
        ('{"examples": {"a": ["b"]}}', "Expecting 'examples' value to be an list/array"),
        ('{"examples": []}', "'examples' value is an empty array"),
        ('{"examples": [[{"a": 1}]]}', "Example must be JSON object but got JSON Array"),
        ('{"examples": [{"a": [10, null]}]}', "a has element with unexpected JSON type: Null"),
        ('{"examples": [{"a": [10, 10.0]}]}', "feature: a expecting type: int64"),
        ('{"examples": [{"a": ["b", 1]}]}', "feature: a expecting type: bytes"),
        ('{"examples": [{"a": [1.5, "b"]}]}', "feature: a expecting type: float"),
        ('{"examples": [{"a": [10, {"b": 10}]}]}', "a has element with unexpected JSON type: Ob"),
        ('{"examples": [{"a": [[10], 20]}]}', "a has element with unexpected JSON type: Array"),
        ('{"examples": [{"a": [20, 18446744073709551603]}]}', "Only int64 is supported"),
        ('{"examples": [{"a": 1.7976931348623157e308}]}', "loss of precision"),
        ('{"examples": [{"a": {"b64": "?"}}]}', "Unable to base64 decode"),
    ],
)
def test_examples_are_refused(text, message):
    with pytest.raises(RequestError) as caught:
        examples(text)
    assert message in str(caught.value)
