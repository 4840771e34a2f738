"""The client's own messages against those of TensorFlow and TensorFlow Serving."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.descriptor import FieldDescriptor
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
    status_pb2,
)

from igpt_keras.errors import InputError
from serving.client import protocol
from serving.client.protocol import messages
from tests.serving.conftest import string_content

OFFICIAL = {
    "Int64Value": wrappers_pb2.Int64Value,
    "Dim": tensor_shape_pb2.TensorShapeProto.Dim,
    "TensorShapeProto": tensor_shape_pb2.TensorShapeProto,
    "TensorProto": tensor_pb2.TensorProto,
    "ModelSpec": model_pb2.ModelSpec,
    "TensorEntry": predict_pb2.PredictRequest.InputsEntry,
    "PredictRequest": predict_pb2.PredictRequest,
    "PredictResponse": predict_pb2.PredictResponse,
    "StatusProto": status_pb2.StatusProto,
    "ModelVersionStatus": get_model_status_pb2.ModelVersionStatus,
    "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
    "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
    "GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
    "GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
    "MetadataEntry": get_model_metadata_pb2.GetModelMetadataResponse.MetadataEntry,
    "Any": any_pb2.Any,
    "SignatureDefMap": get_model_metadata_pb2.SignatureDefMap,
    "SignatureDefEntry": get_model_metadata_pb2.SignatureDefMap.SignatureDefEntry,
    "SignatureDef": meta_graph_pb2.SignatureDef,
    "InputEntry": meta_graph_pb2.SignatureDef.InputsEntry,
}


def fields(message, names):
    """Number, type and repetition of the fields with these names."""
    found = message.DESCRIPTOR.fields_by_name
    # An enumeration travels as an int32.
    kinds = {FieldDescriptor.TYPE_ENUM: FieldDescriptor.TYPE_INT32}
    return {
        name: (found[name].number, kinds.get(found[name].type, found[name].type), repeated)
        for name in names
        for repeated in [found[name].is_repeated]
    }


@pytest.mark.parametrize("name", protocol.DECLARATIONS)
def test_messages_have_the_fields_of_tensorflow_serving(name):
    declared = getattr(messages, name)
    names = list(declared.DESCRIPTOR.fields_by_name)
    assert fields(declared, names) == fields(OFFICIAL[name], names)


def test_every_declared_message_inside_another_is_the_official_one():
    for name in protocol.DECLARATIONS:
        for field in getattr(messages, name).DESCRIPTOR.fields:
            if field.message_type:
                official = OFFICIAL[name].DESCRIPTOR.fields_by_name[field.name].message_type
                expected = OFFICIAL[field.message_type.name].DESCRIPTOR
                # A map's entries are of a type per map.
                assert official.full_name == expected.full_name or official.name == "OutputsEntry"


@pytest.mark.parametrize(
    "method, service",
    [
        (protocol.PREDICT, prediction_service_pb2),
        (protocol.GET_MODEL_METADATA, prediction_service_pb2),
        (protocol.GET_MODEL_STATUS, model_service_pb2),
    ],
)
def test_methods_are_those_of_tensorflow_serving(method, service):
    official = service.DESCRIPTOR.services_by_name[method.service].methods_by_name[method.name]
    assert official.full_name == f"tensorflow.serving.{method.service}.{method.name}"
    assert official.input_type.name == f"{method.name}Request"
    assert official.output_type.name == f"{method.name}Response"


def test_states_and_dtypes_are_those_of_tensorflow():
    states = get_model_status_pb2.ModelVersionStatus.State
    assert {value: name for name, value in states.items()} == protocol.STATES
    for number, (dtype, _) in protocol.DTYPES.items():
        assert tf.dtypes.as_dtype(number).as_numpy_dtype == dtype, types_pb2.DataType.Name(number)


ARRAYS = [
    np.array([[1.5, -2, np.nan]], np.float32),
    np.array([1.5, 1e300]),
    np.array([[-(2**31)], [2**31 - 1]], np.int32),
    np.array([0, 255], np.uint8),
    np.array([-1, 7], np.int16),
    np.array([-1, 7], np.int8),
    np.array([-(2**63), 2**63 - 1], np.int64),
    np.array([True, False]),
    np.array([65_535], np.uint16),
    np.array([1.5, -2], np.float16),
    np.array([2**32 - 1], np.uint32),
    np.array([2**64 - 1], np.uint64),
    np.array([b"a\0", b"", "é".encode()], object),
    np.zeros((2, 0, 3), np.float32),
    np.array(3, np.int32),
]


@pytest.mark.parametrize("values", ARRAYS, ids=lambda values: f"{values.dtype}{values.shape}")
def test_tensors_are_read_and_written_as_tensorflow_does(values):
    written = tensor_pb2.TensorProto.FromString(protocol.tensor_proto(values).SerializeToString())
    np.testing.assert_array_equal(tf.make_ndarray(written), values)
    read = messages.TensorProto.FromString(tf.make_tensor_proto(values).SerializeToString())
    for array in (protocol.array(read), protocol.array(protocol.tensor_proto(values))):
        np.testing.assert_array_equal(array, values)
        assert array.dtype == values.dtype


@pytest.mark.parametrize("number", protocol.DTYPES)
@pytest.mark.parametrize("count", [0, 1, 6])
def test_single_values_are_read_and_the_last_repeats(number, count):
    dtype, field = protocol.DTYPES[number]
    proto = tensor_pb2.TensorProto(dtype=number)
    for size in (2, 3):
        proto.tensor_shape.dim.add(size=size)
    numbers = [b"ab", b"", b"c", b"d", b"e", b"f"] if field == "string_val" else [1, 0, 1, 1, 0, 1]
    getattr(proto, field).extend(numbers[:count])
    if not count:
        expected = np.full((2, 3), b"" if field == "string_val" else 0, dtype)
    else:
        expected = tf.make_ndarray(proto)
    read = protocol.array(messages.TensorProto.FromString(proto.SerializeToString()))
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == dtype


def test_strings_of_numpy_are_sent_as_bytes():
    assert list(protocol.tensor_proto(np.array(["é", "a"])).string_val) == ["é".encode(), b"a"]


def test_what_tensorflow_has_no_dtype_for_is_refused():
    with pytest.raises(InputError, match="got datetime64"):
        protocol.tensor_proto(np.zeros(2, "datetime64[s]"))
    with pytest.raises(InputError, match="dtype number 14"):
        protocol.array(messages.TensorProto(dtype=14))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["serving.client tensorflow", "tensorflow serving.client"])
def test_tensorflow_may_be_imported_before_or_after(order):
    first, second = order.split()
    code = f"""
import {first}, {second}
from tensorflow_serving.apis import predict_pb2
from serving.client.protocol import messages
request = messages.PredictRequest(model_spec=messages.ModelSpec(name="igpt"))
assert predict_pb2.PredictRequest.FromString(request.SerializeToString()).model_spec.name == "igpt"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    "shape, values",
    [([0], []), ([1], [b""]), ([3], [b"a\x00", b"", b"x" * 300]), ([2, 1], [b"a", b"bc"])],
)
def test_strings_in_the_content_of_a_tensor_are_read(shape, values):
    """Which TensorFlow Serving writes with `--enable_serialization_as_tensor_content`."""
    proto = messages.TensorProto(dtype=7, tensor_content=string_content(values))
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    expected = tf.io.parse_tensor(proto.SerializeToString(), tf.string)
    np.testing.assert_array_equal(tf.reshape(expected, [-1]), np.array(values, object))
    np.testing.assert_array_equal(protocol.array(proto), expected)
