"""The part of TensorFlow Serving's gRPC protocol that the client speaks, without TensorFlow.

Sources: tensorflow_serving/apis/{model,predict,get_model_status,get_model_metadata}.proto and
tensorflow/core/framework/{tensor,tensor_shape,types}.proto. Fields that the client does not use
are left out: readers of protocol buffers skip them.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from igpt_keras.errors import InputError
from serving.messages import message_classes
from serving.strings import decode_strings

DECLARATIONS = {
    "Int64Value": ["int64 value = 1"],
    "Dim": ["int64 size = 1"],
    "TensorShapeProto": ["repeated Dim dim = 2"],
    "TensorProto": [
        "int32 dtype = 1",
        "TensorShapeProto tensor_shape = 2",
        "bytes tensor_content = 4",
        "repeated float float_val = 5",
        "repeated double double_val = 6",
        "repeated int32 int_val = 7",
        "repeated bytes string_val = 8",
        "repeated int64 int64_val = 10",
        "repeated bool bool_val = 11",
        "repeated int32 half_val = 13",
        "repeated uint32 uint32_val = 16",
        "repeated uint64 uint64_val = 17",
    ],
    "ModelSpec": [
        "string name = 1",
        "Int64Value version = 2",
        "string signature_name = 3",
        "string version_label = 4",
    ],
    "TensorEntry": ["string key = 1", "TensorProto value = 2"],
    "PredictRequest": [
        "ModelSpec model_spec = 1",
        "repeated TensorEntry inputs = 2",
        "repeated string output_filter = 3",
    ],
    "PredictResponse": ["repeated TensorEntry outputs = 1"],
    "StatusProto": ["string error_message = 2"],
    "ModelVersionStatus": ["int64 version = 1", "int32 state = 2", "StatusProto status = 3"],
    "GetModelStatusRequest": ["ModelSpec model_spec = 1"],
    "GetModelStatusResponse": ["repeated ModelVersionStatus model_version_status = 1"],
    "GetModelMetadataRequest": ["ModelSpec model_spec = 1", "repeated string metadata_field = 2"],
    "GetModelMetadataResponse": ["repeated MetadataEntry metadata = 2"],
    "MetadataEntry": ["string key = 1", "Any value = 2"],
    "Any": ["bytes value = 2"],
    "SignatureDefMap": ["repeated SignatureDefEntry signature_def = 1"],
    "SignatureDefEntry": ["string key = 1", "SignatureDef value = 2"],
    "SignatureDef": ["repeated InputEntry inputs = 1"],
    "InputEntry": ["string key = 1"],
}
messages = message_classes(DECLARATIONS)

STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}


@dataclasses.dataclass(frozen=True)
class Method:
    """A gRPC method.

    Attributes:
        service: Its service in the package `tensorflow.serving`.
        name: Its name there.
    """

    service: str
    name: str

    def connect(self, channel: Any) -> Any:
        """Returns the callable that sends a request over a channel of either kind."""
        return channel.unary_unary(
            f"/tensorflow.serving.{self.service}/{self.name}",
            request_serializer=getattr(messages, f"{self.name}Request").SerializeToString,
            response_deserializer=getattr(messages, f"{self.name}Response").FromString,
        )


PREDICT = Method("PredictionService", "Predict")
GET_MODEL_METADATA = Method("PredictionService", "GetModelMetadata")
GET_MODEL_STATUS = Method("ModelService", "GetModelStatus")

STRING = np.dtype(object)
# For each number of `DataType`, the array's dtype and the field that holds single values.
DTYPES = {
    1: (np.dtype(np.float32), "float_val"),
    2: (np.dtype(np.float64), "double_val"),
    3: (np.dtype(np.int32), "int_val"),
    4: (np.dtype(np.uint8), "int_val"),
    5: (np.dtype(np.int16), "int_val"),
    6: (np.dtype(np.int8), "int_val"),
    7: (STRING, "string_val"),
    9: (np.dtype(np.int64), "int64_val"),
    10: (np.dtype(np.bool_), "bool_val"),
    17: (np.dtype(np.uint16), "int_val"),
    19: (np.dtype(np.float16), "half_val"),
    22: (np.dtype(np.uint32), "uint32_val"),
    23: (np.dtype(np.uint64), "uint64_val"),
}
_NUMBERS = {dtype: number for number, (dtype, _) in DTYPES.items()}


def tensor_dtype(values: np.ndarray) -> np.dtype:
    """Returns the dtype of the tensor that an array becomes; `STRING` for all kinds of strings.

    Raises:
        InputError: A dtype that TensorFlow has no counterpart for.
    """
    dtype = STRING if values.dtype.kind in "OSU" else values.dtype.newbyteorder("=")
    if dtype not in _NUMBERS:
        raise InputError(f"inputs must be strings or numbers of TensorFlow, got {values.dtype}")
    return dtype


def tensor_proto(values: np.ndarray) -> Any:
    """Writes an array as a `TensorProto`.

    Args:
        values: Numbers, or strings: numpy's own, or an object array of bytes or str.

    Raises:
        InputError: A dtype that TensorFlow has no counterpart for.
    """
    dtype = tensor_dtype(values)
    proto = messages.TensorProto(dtype=_NUMBERS[dtype])
    for size in values.shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype is STRING:
        proto.string_val.extend(
            value.encode() if isinstance(value, str) else value for value in values.flat
        )
    else:
        proto.tensor_content = values.astype(dtype.newbyteorder("<")).tobytes()
    return proto


def array(proto: Any) -> np.ndarray:
    """Reads a `TensorProto` in any of the forms in which servers write it.

    Raises:
        InputError: A dtype that numpy has no counterpart for.
    """
    if proto.dtype not in DTYPES:
        raise InputError(f"a tensor of dtype number {proto.dtype} cannot be read")
    dtype, field = DTYPES[proto.dtype]
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if proto.tensor_content and dtype is STRING:
        strings = decode_strings(proto.tensor_content, math.prod(shape))
        values = np.array(strings, dtype)
    elif proto.tensor_content:
        values = np.frombuffer(proto.tensor_content, dtype.newbyteorder("<")).astype(dtype)
    elif field == "half_val":
        values = np.array(proto.half_val, np.uint16).view(np.float16)
    else:
        values = np.array(getattr(proto, field), dtype)
    # Values left out repeat the last one, and are zeros where there is none.
    if not values.size:
        values = np.array([b"" if dtype is STRING else 0], dtype)
    missing = math.prod(shape) - len(values)
    if missing > 0:
        values = np.concatenate([values, np.repeat(values[-1:], missing)])
    return values[: math.prod(shape)].reshape(shape)
