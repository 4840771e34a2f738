"""Values in JSON as a tensor's."""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import base64
import binascii
import math
import re
from typing import Any

import grpc
import tensorflow as tf

from serving.server.errors import RequestError, invalid
from serving.server.rest.json_reading import FLOAT_MAX, Named, encode, shown
from serving.server.tensor_protos import FIELDS
from serving.server.tensorflow_internals import TensorProto

BASE64 = "b64"
INT32, INT64 = range(-(2**31), 2**31), range(-(2**63), 2**63)
UINT32, UINT64 = range(2**32), range(2**64)
# What an integer must be for each dtype; those below 32 bits wrap, as in TensorFlow.
RANGES = {
    **dict.fromkeys((tf.int32, tf.int16, tf.int8, tf.uint8), INT32),
    tf.int64: INT64,
    tf.uint32: UINT32,
    tf.uint64: UINT64,
}
DECIMALS = (tf.float32, tf.float64)
# TensorFlow's own limit.
MAX_RANK = 254
TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
TOO_BIG = "JSON Parse error: Number too big to be stored in double."


class Values:
    """Collects the values of a tensor.

    Args:
        dtype: The tensor's `DataType`.
    """

    def __init__(self, dtype: int):
        self._dtype = tf.dtypes.as_dtype(dtype)
        self._values: list[Any] = []

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: Any) -> list[int]:
        """Adds what a value or nested lists hold, and returns their shape.

        Raises:
            RequestError: The lists do not form an array, or a value is none of the dtype.
        """
        shape = []
        inner = value
        while isinstance(inner, list):
            shape.append(len(inner))
            if not inner:
                break
            inner = inner[0]
        if len(shape) > MAX_RANK:
            raise invalid(f"a tensor must have at most {MAX_RANK} dimensions, got {len(shape)}")
        self._fill(value, 0, shape)
        return shape

    def tensor(self, shape: list[int]) -> TensorProto:
        """Returns the tensor, whose values are all there."""
        proto = TensorProto(dtype=self._dtype.as_datatype_enum)
        for size in shape:
            proto.tensor_shape.dim.add(size=size)
        if self._values:
            getattr(proto, FIELDS[self._dtype][0]).extend(self._values)
        return proto

    def _fill(self, value: Any, level: int, shape: list[int]) -> None:
        rank = len(shape)
        if not isinstance(value, list):
            if level != rank:
                raise invalid(
                    f"JSON Value: {shown(value)} found at incorrect level: {level + 1} "
                    f"in the JSON DOM. Expected at level: {rank}"
                )
            self._values.append(self._converted(value))
            return
        if level >= rank:
            raise invalid(f"Encountered list at unexpected level: {level} expected < {rank}")
        if len(value) != shape[level]:
            raise invalid(
                f"Encountered list at unexpected size: {len(value)} at level: {level} "
                f"expected size: {shape[level]}"
            )
        if level == rank - 1 and self._are_plain(value):
            self._values.extend(value)
            return
        for inner in value:
            self._fill(inner, level + 1, shape)

    def _are_plain(self, values: list[Any]) -> bool:
        """Returns whether all are numbers that the dtype holds, which is quick to find out."""
        types = set(map(type, values))
        if types == {int} and self._dtype in RANGES:
            return min(values) in RANGES[self._dtype] and max(values) in RANGES[self._dtype]
        if types and types <= {int, float} and self._dtype in DECIMALS:
            return max(map(abs, values)) <= FLOAT_MAX
        return False

    def _converted(self, value: Any) -> Any:
        if self._dtype in DECIMALS:
            return self._decimal(value)
        if self._dtype in RANGES:
            if type(value) is int and value in RANGES[self._dtype]:
                return value
        elif self._dtype == tf.bool:
            if isinstance(value, bool):
                return value
        elif self._dtype == tf.string:
            if isinstance(value, dict):
                return decode_base64(value)
            if isinstance(value, str):
                return encode(value)
        elif not isinstance(value, dict):
            raise RequestError(
                grpc.StatusCode.UNIMPLEMENTED,
                f"Conversion of JSON Value: {shown(value)} to type: {_name(self._dtype)}",
            )
        raise invalid(
            f"JSON Value: {shown(value)} Type: {json_type(value)} is not of expected type: "
            f"{_name(self._dtype)}"
        )

    def _decimal(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(
                f"JSON Value: {shown(value)} Type: {json_type(value)} is not of expected type: "
                f"{_name(self._dtype)}"
            )
        return as_float(value) if self._dtype == tf.float32 else as_double(value)


def as_double(value: int | float) -> float:
    """Returns a number of JSON as a double.

    Raises:
        RequestError: INVALID_ARGUMENT, it is too large.
    """
    try:
        number = float(value)
    except OverflowError:
        raise invalid(TOO_BIG) from None
    if math.isinf(number) and not isinstance(value, Named):
        raise invalid(TOO_BIG)
    return number


def as_float(value: int | float) -> float:
    """Returns a number of JSON that a float of 32 bits holds, if not exactly.

    Raises:
        RequestError: INVALID_ARGUMENT, it is too large.
    """
    number = as_double(value)
    if math.isfinite(number) and abs(number) > FLOAT_MAX:
        raise invalid(
            f"Cannot convert JSON value: {shown(value)} to float without loss of precision."
        )
    return number


def is_base64(value: Any) -> bool:
    """Returns whether a value is {"b64": "…"}."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(BASE64), str)


def decode_base64(value: dict[str, Any]) -> bytes:
    """Returns the bytes of {"b64": "…"}; spaces in it, and no padding, are accepted.

    Raises:
        RequestError: INVALID_ARGUMENT, it is not that.
    """
    if not is_base64(value):
        raise invalid(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text = value[BASE64]
    try:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:
            digits = re.sub(r"[ \t\n\v\f\r]", "", text)
            bare = digits.rstrip("=.")
            padding = "=" * (-len(bare) % 4)
            if len(digits) - len(bare) not in (0, len(padding)):
                raise
            return base64.b64decode(bare + padding, validate=True)
    except ValueError:
        raise invalid("Unable to base64 decode") from None


def json_type(value: Any) -> str:
    """Returns RapidJSON's name for the type of a value."""
    if isinstance(value, bool):
        return str(value)
    return TYPES.get(type(value), "Number")


def _name(dtype: tf.DType) -> str:
    """Returns the name that a dtype has in C++."""
    names = {tf.float32: "float", tf.float64: "double", tf.float16: "half"}
    return names.get(dtype, dtype.name)
