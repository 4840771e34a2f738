"""`TensorProto`s as TensorFlow's C++ `Tensor::FromProto` reads and `AsProtoField` writes them.

`tf.make_ndarray` and `tf.make_tensor_proto` differ: they refuse surplus values and strings in
`tensor_content`, and write numbers into `tensor_content`, where clients that read `float_val`
find nothing.
"""

import math

import numpy as np
import tensorflow as tf

from serving.server.tensorflow_internals import TensorProto
from serving.strings import decode_strings

# The field that holds single values of a dtype, and the dtype that it has there.
FIELDS = {
    tf.float32: ("float_val", np.float32),
    tf.float64: ("double_val", np.float64),
    tf.int32: ("int_val", np.int32),
    tf.uint8: ("int_val", np.int32),
    tf.int16: ("int_val", np.int32),
    tf.int8: ("int_val", np.int32),
    tf.uint16: ("int_val", np.int32),
    tf.string: ("string_val", np.object_),
    tf.int64: ("int64_val", np.int64),
    tf.bool: ("bool_val", np.bool_),
    tf.uint32: ("uint32_val", np.uint32),
    tf.uint64: ("uint64_val", np.uint64),
    tf.float16: ("half_val", np.int32),
    tf.bfloat16: ("half_val", np.int32),
    tf.complex64: ("scomplex_val", np.float32),
    tf.complex128: ("dcomplex_val", np.float64),
}
# Dtypes of which the field holds the bits, or the two parts one after the other.
PARTS = {
    tf.float16: np.uint16,
    tf.bfloat16: np.uint16,
    tf.complex64: np.float32,
    tf.complex128: np.float64,
}
# One value may stand for many. The largest array that a message of a few bytes may ask for.
MAX_REPEATED = 2**24


def array(proto: TensorProto) -> np.ndarray:
    """Reads a tensor of known shape.

    Values left out repeat the last one, and are zeros if there is none; surplus ones are ignored.

    Raises:
        ValueError: The message is not a tensor.
    """
    dtype = tf.dtypes.as_dtype(proto.dtype)
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    size = math.prod(shape)
    if dtype not in FIELDS:
        raise ValueError(f"tensors of dtype {dtype.name} are not read")
    if not size:
        return np.zeros(shape, dtype.as_numpy_dtype)
    if not proto.tensor_content:
        return _from_fields(proto, dtype, size).reshape(shape)
    if dtype == tf.string:
        values = np.empty(size, np.object_)
        values[:] = decode_strings(proto.tensor_content, size)
        return values.reshape(shape)
    if dtype == tf.bool:
        return np.frombuffer(proto.tensor_content, np.uint8).astype(np.bool_).reshape(shape)
    return np.frombuffer(proto.tensor_content, dtype.as_numpy_dtype).reshape(shape)


def _from_fields(proto: TensorProto, dtype: tf.DType, size: int) -> np.ndarray:
    field, stored = FIELDS[dtype]
    content = getattr(proto, field)
    # A complex number is two values, of which an incomplete pair does not count.
    width = 2 if dtype.is_complex else 1
    given = np.empty(min(len(content) // width, size) * width, stored)
    given[:] = content[: len(given)]
    if dtype in PARTS:
        given = given.astype(PARTS[dtype]).view(dtype.as_numpy_dtype)
    else:
        given = given.astype(dtype.as_numpy_dtype)
    if len(given) == size:
        return given
    if size > MAX_REPEATED:
        raise ValueError(f"{len(given)} values for {size} elements")
    last = given[-1:] if len(given) else np.array([b"" if dtype == tf.string else 0], given.dtype)
    return np.concatenate([given, np.repeat(last, size - len(given))])


def write(values: np.ndarray, proto: TensorProto) -> None:
    """Writes an array's values one by one, as TensorFlow Serving answers by default.

    Args:
        values: An array as TensorFlow returns it; strings as bytes.
        proto: An empty message.
    """
    dtype = tf.dtypes.as_dtype(values.dtype)
    field, stored = FIELDS[dtype]
    proto.dtype = dtype.as_datatype_enum
    for size in values.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = np.ascontiguousarray(values).reshape(-1)
    if dtype in PARTS:
        flat = flat.view(PARTS[dtype])
    getattr(proto, field).extend(flat.astype(stored).tolist())
