"""Tensors and answers as TensorFlow Serving's REST API writes them in JSON.

Sources: tensorflow_serving/g3doc/api_rest.md and tensorflow_serving/util/json_tensor.cc.
"""

import base64
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np

from igpt_keras.errors import InputError
from serving.client.errors import Failure
from serving.client.protocol import DTYPES, STRING, tensor_dtype

_OWN_NAMES = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF", "object": "STRING"}
# The dtype for each name of `DataType`.
DTYPES_BY_NAME = {
    f"DT_{_OWN_NAMES.get(dtype.name, dtype.name.upper())}": dtype for dtype, _ in DTYPES.values()
}
# The kinds of NumPy's arrays of JSON values that an array of a kind may be written as.
_WRITTEN = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_MAX_EXCERPT = 200


@dataclasses.dataclass(frozen=True)
class Signature:
    """The names of a signature's inputs and outputs, with the names of their dtypes."""

    inputs: dict[str, str]
    outputs: dict[str, str]


def excerpt(content: bytes) -> str:
    """Returns the beginning of an answer in one line, for an error."""
    text = " ".join(content[: 4 * _MAX_EXCERPT].decode(errors="replace").split())
    return f"{text[:_MAX_EXCERPT]}…" if len(text) > _MAX_EXCERPT else text


def parsed(content: bytes) -> Any:
    """Returns the JSON of an answer."""
    # Strings of TensorFlow need not be UTF-8, and its server writes them as they are.
    return json.loads(content.decode(errors="surrogateescape"))


@contextlib.contextmanager
def reading(content: bytes) -> Iterator[None]:
    """Raises `Failure` where an answer turns out not to be what a model server gives."""
    try:
        yield
    except InputError:
        raise
    except _UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}"
        raise Failure(
            grpc.StatusCode.UNKNOWN,
            f"an answer that no model server gives ({reason}): {excerpt(content)}",
        ) from None


def signatures(document: Any) -> dict[str, Signature]:
    """Reads the answer to a request for metadata."""

    def dtypes(tensors):
        return {name: info["dtype"] for name, info in tensors.items()}

    return {
        name: Signature(dtypes(signature["inputs"]), dtypes(signature["outputs"]))
        for name, signature in document["metadata"]["signature_def"]["signature_def"].items()
    }


def json_tensor(values: np.ndarray) -> Any:
    """Returns an array as nested lists, its strings in base64.

    Raises:
        InputError: A dtype that TensorFlow has no counterpart for.
    """
    if tensor_dtype(values) is not STRING:
        return values.tolist()
    return _with_each(values, _base64).tolist()


def array(values: Any, dtype_name: str) -> np.ndarray:
    """Reads nested lists as an array.

    Raises:
        InputError: A dtype that numpy has no counterpart for.
        ValueError: The lists are no tensor of that dtype.
    """
    if dtype_name not in DTYPES_BY_NAME:
        raise InputError(f"a tensor of dtype {dtype_name} cannot be read")
    dtype = DTYPES_BY_NAME[dtype_name]
    if dtype is STRING:
        return _with_each(np.array(values, object), _string)
    # NumPy makes floats of a mixture of large and small integers.
    written = np.array(values, dtype if dtype == np.uint64 and _are_integers(values) else None)
    if written.size and written.dtype.kind not in _WRITTEN[dtype.kind]:
        raise ValueError(f"{written.dtype} in a tensor of {dtype}")
    # NumPy refuses integers that a dtype does not hold in lists only.
    return written.astype(dtype) if dtype.kind in "fb" else np.array(values, dtype)


def check_batch_sizes(arrays: dict[str, np.ndarray], batch_size: int) -> None:
    """Raises `ValueError` unless all arrays are [batch_size, …]."""
    for name, values in arrays.items():
        if values.shape[:1] != (batch_size,):
            raise ValueError(f"{name} {list(values.shape)} for {batch_size} examples")


def _are_integers(values: Any) -> bool:
    return all(type(value) is int for value in np.array(values, object).flat)


def _with_each(values: np.ndarray, function: Callable[[Any], Any]) -> np.ndarray:
    """Returns an object array of what a function makes of each value."""
    made = np.empty(values.size, object)
    for index, value in enumerate(values.flat):
        made[index] = function(value)
    return made.reshape(values.shape)


def _base64(value: bytes | str) -> dict[str, str]:
    content = value.encode() if isinstance(value, str) else value
    return {"b64": base64.b64encode(content).decode()}


def _string(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="surrogateescape")
    return base64.b64decode(value["b64"], validate=True)
