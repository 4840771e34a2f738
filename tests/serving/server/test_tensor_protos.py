"""Tensors on the wire, as TensorFlow's C++ code reads and writes them."""

import grpc
import numpy as np
import pytest
import tensorflow as tf

from serving.server import Server, tensor_protos
from serving.server.tensorflow_internals import TensorProto
from tests.serving.conftest import string_content
from tests.serving.server.conftest import (
    INPUTS,
    OTHER_PNG,
    PNG,
    count_request,
    predict_request,
    refused,
)


def set_content(proto):
    proto.tensor_content = b"123"


def set_negative_size(proto):
    proto.tensor_shape.dim[0].size = -2


def set_unknown_rank(proto):
    proto.tensor_shape.unknown_rank = True


def set_fewer_values_than_content(proto):
    proto.tensor_shape.dim[0].size = 3


@pytest.mark.parametrize(
    "spoil", [set_content, set_negative_size, set_unknown_rank, set_fewer_values_than_content]
)
def test_a_malformed_tensor_is_refused(stub, spoil):
    request = predict_request()
    spoil(request.inputs["seed"])
    code, message = refused(stub.Predict, request)
    assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: seed")


def test_a_tensor_without_a_dtype_is_refused(stub):
    request = predict_request()
    request.inputs["seed"].Clear()
    assert refused(stub.Predict, request)[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_a_few_bytes_do_not_stand_for_many_examples(stub):
    request = predict_request()
    request.inputs["seed"].CopyFrom(tf.make_tensor_proto([1], tf.int64))
    request.inputs["seed"].tensor_shape.dim[0].size = 10**15
    code, message = refused(stub.Predict, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("Task size 1000000000000000 is larger than maximum")


def test_values_left_out_repeat_the_last_as_in_tensorflow(stub):
    request = predict_request()
    seeds = tf.make_tensor_proto([7], tf.int64)
    request.inputs["seed"].Clear()
    request.inputs["seed"].dtype = seeds.dtype
    request.inputs["seed"].int64_val.append(7)
    request.inputs["seed"].tensor_shape.dim.add(size=2)
    whole = predict_request({**INPUTS, "seed": tf.constant([7, 7], tf.int64)})
    tokens, expected = (
        tf.make_ndarray(stub.Predict(asked, timeout=30).outputs["tokens"])
        for asked in (request, whole)
    )
    np.testing.assert_array_equal(tokens, expected)


DTYPES = sorted(tensor_protos.FIELDS, key=lambda dtype: dtype.name)
VALUES = {
    tf.string: [b"", b"a\x00", "é".encode(), b"x" * 300],
    tf.bool: [True, False, True],
    tf.float16: [0.5, -2.0, np.inf, 6e-5],
    tf.bfloat16: [0.5, -2.0, np.inf],
    tf.complex64: [1 + 2j, -0.5j],
    tf.complex128: [1 + 2j, -0.5j],
    tf.float32: [0.1, -np.inf, 3e38],
    tf.float64: [0.1, -np.inf, 1e300],
}


def some(dtype):
    """Values of a dtype, at its limits if it has any."""
    return VALUES.get(dtype) or [dtype.min, 0, dtype.max, 1]


def array(tensor):
    """An array, also if NumPy does not know the dtype or the value is a single string."""
    return np.asarray(tensor.numpy(), tensor.dtype.as_numpy_dtype)


def with_content(values, dtype):
    """A message with the values in `tensor_content`."""
    tensor = tf.constant(values, dtype)
    proto = TensorProto.FromString(tf.io.serialize_tensor(tensor).numpy())
    if dtype == tf.string:
        # TensorFlow reads strings there, but does not write them.
        proto.tensor_content = string_content(list(proto.string_val))
        proto.ClearField("string_val")
    assert proto.tensor_content or not tensor.shape.num_elements()
    return proto


def read_by_cpp(proto):
    """What `Tensor::FromProto` makes of a message; None if it refuses."""
    try:
        return array(tf.io.parse_tensor(proto.SerializeToString(), proto.dtype))
    except tf.errors.InvalidArgumentError:
        return None


def read_by_us(proto):
    try:
        return tensor_protos.array(proto)
    except ValueError:
        return None


def assert_read_alike(proto):
    expected, got = read_by_cpp(proto), read_by_us(proto)
    assert (expected is None) == (got is None)
    if expected is not None:
        assert got.shape == expected.shape
        np.testing.assert_array_equal(got, expected)


def ids(dtypes):
    return [dtype.name for dtype in dtypes]


@pytest.mark.parametrize("dtype", DTYPES, ids=ids(DTYPES))
def test_what_we_write_is_what_cpp_reads(dtype):
    for values in (some(dtype), [some(dtype)] * 2, some(dtype)[0], []):
        tensor = tf.constant(values, dtype)
        proto = TensorProto()
        tensor_protos.write(array(tensor), proto)
        assert not proto.tensor_content
        np.testing.assert_array_equal(read_by_cpp(proto), array(tensor))
        assert_read_alike(proto)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids(DTYPES))
def test_we_read_content_as_cpp_does(dtype):
    for values in (some(dtype), [some(dtype)] * 3, some(dtype)[0], []):
        proto = with_content(values, dtype)
        np.testing.assert_array_equal(read_by_us(proto), array(tf.constant(values, dtype)))
        assert_read_alike(proto)


@pytest.mark.parametrize("dtype", DTYPES, ids=ids(DTYPES))
@pytest.mark.parametrize("shape", [[0], [1], [3], [9], [2, 2], [], [3, 0]], ids=str)
def test_fewer_and_more_values_than_elements(dtype, shape):
    field, _ = tensor_protos.FIELDS[dtype]
    written = TensorProto()
    tensor_protos.write(np.array(some(dtype), dtype.as_numpy_dtype), written)
    for count in range(len(getattr(written, field)) + 1):
        proto = TensorProto(dtype=dtype.as_datatype_enum)
        for size in shape:
            proto.tensor_shape.dim.add(size=size)
        getattr(proto, field).extend(getattr(written, field)[:count])
        assert_read_alike(proto)


@pytest.mark.parametrize("dtype", [tf.string, tf.float32, tf.bool], ids=lambda dtype: dtype.name)
def test_spoiled_content(dtype):
    good = with_content(some(dtype), dtype)
    random = np.random.default_rng(0)
    for _ in range(300):
        proto = TensorProto()
        proto.CopyFrom(good)
        spoiled = bytearray(good.tensor_content)
        spoiled[random.integers(len(spoiled))] = random.integers(2 if dtype == tf.bool else 256)
        kept = random.choice([len(spoiled), random.integers(len(spoiled) + 1)])
        proto.tensor_content = bytes(spoiled[:kept])
        proto.tensor_shape.dim[0].size += random.choice([0, 0, 1, -1])
        assert_read_alike(proto)


def test_integers_beyond_a_small_dtype():
    for value in (300, -1, 2**31 - 1):
        proto = TensorProto(dtype=tf.uint8.as_datatype_enum, int_val=[value])
        assert_read_alike(proto)


def test_one_value_does_not_stand_for_any_number():
    proto = TensorProto(dtype=tf.int64.as_datatype_enum, int64_val=[1])
    proto.tensor_shape.dim.add(size=2**62)
    with pytest.raises(ValueError, match="1 values for"):
        tensor_protos.array(proto)


def test_the_bytes_of_an_answer(counting):
    """Field 5 of `TensorProto`, which clients in other languages read, holds the numbers."""
    with Server(counting) as server, grpc.insecure_channel(server.address) as channel:
        answer = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(
            count_request(1, 2.5).SerializeToString(), timeout=30
        )
    floats = np.array([2, 3.5], "<f4").tobytes()
    # dtype DT_FLOAT, a shape of one dimension of 2, and eight bytes of floats.
    tensor = b"\x08\x01" + b"\x12\x04\x12\x02\x08\x02" + b"\x2a\x08" + floats
    # An entry of the map `outputs`, which is field 1: name and tensor.
    entry = b"\x0a\x05value" + b"\x12" + bytes([len(tensor)]) + tensor
    assert b"\x0a" + bytes([len(entry)]) + entry in answer


def test_images_in_the_content_of_a_tensor(stub):
    def ask(image_bytes):
        request = predict_request({"image_bytes": INPUTS["image_bytes"]}, "classify_images")
        request.inputs["image_bytes"].CopyFrom(image_bytes)
        return stub.Predict(request, timeout=30).outputs["scores"]

    images = [PNG, OTHER_PNG]
    assert ask(with_content(images, tf.string)) == ask(tf.make_tensor_proto(images))
