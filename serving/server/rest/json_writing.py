"""JSON as TensorFlow Serving writes it: RapidJSON's pretty writer, four spaces a level."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from serving.server.errors import invalid
from serving.server.tensor_protos import FIELDS
from serving.server.tensorflow_internals import TensorProto

INTEGERS = (tf.int32, tf.int16, tf.int8, tf.uint8, tf.int64, tf.uint32, tf.uint64)
DECIMALS = (tf.float32, tf.float64)
# Outputs with such names are base64.
BYTES_SUFFIX = "_bytes"
UNSAFE = re.compile(r'[\x00-\x1f"\\]')
ESCAPES = {
    **{chr(code): f"\\u{code:04X}" for code in range(32)},
    **{"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"},
}
INDENT = " " * 4


def error_json(message: str) -> bytes:
    """Writes the body of a refusal, in which bytes that are not UTF-8 become question marks."""
    return f'{{\n{INDENT}"error": {string_json(message)}\n}}'.encode("utf-8", "replace")


def predictions_json(outputs: Mapping[str, TensorProto]) -> bytes:
    """Writes outputs in row format: a list with what belongs to each example.

    Raises:
        RequestError: INVALID_ARGUMENT, the outputs cannot be written so.
    """
    size = _batch_size(outputs)
    # Open are the answer, its list and, of several outputs, the example's object.
    level = 2 if len(outputs) == 1 else 3
    columns = {name: _rows(name, outputs[name], level) for name in sorted(outputs)}
    if len(columns) == 1:
        text = ", ".join(*columns.values())
    else:
        keys = [f"{INDENT * 3}{string_json(name)}: " for name in columns]
        objects = [
            ",\n".join(key + value for key, value in zip(keys, row, strict=True))
            for row in zip(*columns.values(), strict=True)
        ]
        text = ",".join(f"\n{INDENT * 2}{{\n{members}\n{INDENT * 2}}}" for members in objects)
    # TensorFlow Serving writes values in one line, and only the end of their list in the next.
    end = f"\n{INDENT}]" if size else "]"
    return _encoded(f'{{\n{INDENT}"predictions": [{text}{end}\n}}')


def outputs_json(outputs: Mapping[str, TensorProto]) -> bytes:
    """Writes outputs in column format: each of them whole.

    Raises:
        RequestError: INVALID_ARGUMENT, the outputs cannot be written so.
    """
    _check_outputs(outputs)
    if len(outputs) == 1:
        ((name, proto),) = outputs.items()
        return _encoded(f'{{\n{INDENT}"outputs": {_column(name, proto, 1)}\n}}')
    members = ",\n".join(
        f"{INDENT * 2}{string_json(name)}: {_column(name, outputs[name], 2)}"
        for name in sorted(outputs)
    )
    return _encoded(f'{{\n{INDENT}"outputs": {{\n{members}\n{INDENT}}}\n}}')


def results_json(result: Any) -> bytes:
    """Writes the answer to a classification: labels and scores for each example.

    Raises:
        RequestError: INVALID_ARGUMENT, there is none.
    """
    if not result.classifications:
        raise invalid("Cannot convert empty ClassificationResults to JSON")
    rows = []
    for classification in result.classifications:
        labels = [string_json(entry.label) for entry in classification.classes]
        scores = decimals([entry.score for entry in classification.classes], np.float32)
        pairs = zip(labels, scores, strict=True)
        rows.append("[" + ", ".join(f"[{label}, {score}]" for label, score in pairs) + "]")
    return _encoded(f'{{\n{INDENT}"results": [{", ".join(rows)}\n{INDENT}]\n}}')


def string_json(text: str) -> str:
    """Writes a string; surrogates stand for bytes that are not UTF-8."""
    return f'"{UNSAFE.sub(lambda match: ESCAPES[match[0]], text)}"'


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _check_outputs(outputs: Mapping[str, TensorProto]) -> None:
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")


def _batch_size(outputs: Mapping[str, TensorProto]) -> int:
    """Returns the first dimension, which all outputs must share."""
    _check_outputs(outputs)
    batch_size = -1
    for name, proto in sorted(outputs.items()):
        shape = _shape(proto)
        if not shape:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch_size not in (-1, shape[0]):
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {shape[0]} "
                f"expecting: {batch_size}"
            )
        batch_size = shape[0]
    return batch_size


def _shape(proto: TensorProto) -> list[int]:
    return [dimension.size for dimension in proto.tensor_shape.dim]


def _rows(name: str, proto: TensorProto, level: int) -> list[str]:
    """Writes the values for each example in one line, inside of `level` lists and objects."""
    shape = _shape(proto)
    texts = _values(name, proto, level + len(shape) - 1)
    while len(shape) > 1:
        texts = [f"[{', '.join(group)}]" for group in _groups(texts, shape)]
        shape.pop()
    return texts


def _column(name: str, proto: TensorProto, level: int) -> str:
    """Writes a tensor with a line for each value, inside of `level` lists and objects."""
    shape = _shape(proto)
    texts = _values(name, proto, level + len(shape))
    while shape:
        end = "\n" + INDENT * (level + len(shape) - 1)
        line = end + INDENT
        texts = [
            f"[{line}{f',{line}'.join(group)}{end}]" if group else "[]"
            for group in _groups(texts, shape)
        ]
        shape.pop()
    (text,) = texts
    return text


def _groups(texts: list[str], shape: Sequence[int]) -> list[list[str]]:
    """Splits texts of an array into those along its last dimension."""
    *outer, size = shape
    return [texts[index * size : (index + 1) * size] for index in range(math.prod(outer))]


def _values(name: str, proto: TensorProto, level: int) -> list[str]:
    """Writes the values one by one, inside of `level` lists and objects."""
    dtype = tf.dtypes.as_dtype(proto.dtype)
    values = getattr(proto, FIELDS[dtype][0]) if dtype in FIELDS else []
    if dtype in INTEGERS:
        return list(map(str, values))
    if dtype in DECIMALS:
        return decimals(values, dtype.as_numpy_dtype)
    if dtype == tf.bool:
        return ["true" if value else "false" for value in values]
    if dtype == tf.string and name.endswith(BYTES_SUFFIX):
        start = f'{{\n{INDENT * (level + 1)}"b64": "'
        end = f'"\n{INDENT * level}}}'
        return [f"{start}{base64.b64encode(value).decode()}{end}" for value in values]
    if dtype == tf.string:
        return [string_json(value.decode("utf-8", "surrogateescape")) for value in values]
    # TensorFlow's C++ code has another name for float16.
    shown = "half" if dtype == tf.float16 else dtype.name
    raise invalid(f"Failed to write JSON value for tensor type: {shown}")


def decimals(values: Sequence[float], dtype: type) -> list[str]:
    """Writes floats with six digits, or with as many as they need to be read exactly."""
    exact = np.asarray(values, dtype)
    texts = [f"{value:.6g}" for value in values]
    read = np.fromiter(map(float, texts), np.float64, len(texts)).astype(dtype)
    digits = 9 if dtype == np.float32 else 17
    for index in np.flatnonzero((read != exact) & np.isfinite(exact)).tolist():
        texts[index] = f"{values[index]:.{digits}g}"
    for index in np.flatnonzero(~np.isfinite(exact)).tolist():
        texts[index] = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[texts[index]]
    return [
        text if "." in text or "e" in text or text[-1] in "Ny" else text + ".0" for text in texts
    ]
