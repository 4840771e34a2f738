"""Requests in JSON as the messages that gRPC carries.

What is accepted, and what is said about the rest, is json_tensor.cc's in tensorflow_serving/util.
"""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import input_pb2, model_pb2

from serving.server.errors import RequestError, invalid
from serving.server.rest.json_reading import encode, read_object, shown
from serving.server.rest.values import (
    INT64,
    UINT64,
    Values,
    as_float,
    decode_base64,
    is_base64,
    json_type,
)
from serving.server.tensorflow_internals import TensorProto

INSTANCES, INPUTS, EXAMPLES, CONTEXT = "instances", "inputs", "examples", "context"


def read_request(body: bytes, spec: model_pb2.ModelSpec) -> dict[str, Any]:
    """Reads a request's JSON, and puts the name of its signature into `spec`.

    Raises:
        RequestError: INVALID_ARGUMENT, it is no JSON object, or the name no string.
    """
    document = read_object(body)
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {shown(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    spec.signature_name = as_text(name)
    return document


def predict_inputs(
    document: dict[str, Any], infos: Mapping[str, Any]
) -> tuple[dict[str, TensorProto], bool]:
    """Reads the inputs of a Predict request.

    Args:
        document: The request's JSON.
        infos: The signature's `TensorInfo`s by name; at least one.

    Returns:
        The tensors by name, and whether they were in row format.

    Raises:
        RequestError: The inputs cannot be read.
    """
    if INSTANCES in document and INPUTS in document:
        raise invalid(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of "
            f"'{INPUTS}' or '{INSTANCES}' keys to exist "
        )
    if INSTANCES in document:
        instances = document[INSTANCES]
        if not isinstance(instances, list):
            raise invalid(
                f"JSON Value: {shown(document)} Excepting '{INSTANCES}' to be an list/array"
            )
        if not instances:
            raise invalid(f"JSON Value: {shown(document)} No values in '{INSTANCES}' array")
        return _from_instances(instances, infos), True
    if INPUTS in document:
        return _from_inputs(document[INPUTS], infos), False
    raise invalid("Missing 'inputs' or 'instances' key")


def _from_instances(instances: list[Any], infos: Mapping[str, Any]) -> dict[str, TensorProto]:
    """Reads row format: an object or a value for each example."""
    if not isinstance(instances[0], dict) and len(infos) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    rows = _Rows(infos)
    are_objects = _is_object(instances[0])
    for index, element in enumerate(instances):
        if are_objects != _is_object(element):
            found = "object but got list" if are_objects else "value/list but got object"
            raise invalid(f"Expecting {found} at item {index} of input list")
        place = f"Failed to process element: {index}"
        if not are_objects:
            rows.add(next(iter(infos)), element, place)
            continue
        for name, value in element.items():
            rows.add(name, value, f"{place} key: {name}")
        if element.keys() != infos.keys():
            raise invalid(
                f"{place} of 'instances' list. JSON object: {shown(element)} must only have keys: "
                f"{','.join(sorted(infos))}"
            )
    return {
        name: values.tensor([len(instances), *rows.shapes[name]])
        for name, values in rows.values.items()
    }


class _Rows:
    """Values of the inputs, example by example."""

    def __init__(self, infos: Mapping[str, Any]):
        self._infos = infos
        self.values: dict[str, Values] = {}
        self.shapes: dict[str, list[int]] = {}

    def add(self, name: str, value: Any, place: str) -> None:
        """Adds what an input is in the next example.

        Raises:
            RequestError: INVALID_ARGUMENT, it is no such input.
        """
        try:
            self._add(name, value)
        except RequestError as error:
            message = f"{place} of 'instances' list. Error: {error.code.name}: {error}"
            raise invalid(message) from None

    def _add(self, name: str, value: Any) -> None:
        if name not in self._infos:
            raise invalid(f"JSON object: does not have named input: {name}")
        values = self.values.setdefault(name, Values(self._infos[name].dtype))
        shape = values.add(value)
        first = self.shapes.setdefault(name, shape)
        size, first_size = math.prod(shape), math.prod(first)
        if size != first_size:
            raise invalid(f"Expecting tensor size: {first_size} but got: {size}")
        if shape != first:
            raise invalid(f"Expecting shape {_bracketed(first)} but got: {_bracketed(shape)}")


def _from_inputs(inputs: Any, infos: Mapping[str, Any]) -> dict[str, TensorProto]:
    """Reads column format: every input whole."""
    if not _is_object(inputs):
        if len(infos) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        inputs = dict.fromkeys(infos, inputs)
    tensors = {}
    for name, info in infos.items():
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        values = Values(info.dtype)
        tensors[name] = values.tensor(values.add(inputs[name]))
    return tensors


def fill_examples(document: dict[str, Any], examples: input_pb2.Input) -> None:
    """Reads the examples of a Classify or Regress request.

    Args:
        document: The request's JSON.
        examples: Takes the examples.

    Raises:
        RequestError: INVALID_ARGUMENT, they cannot be read.
    """
    kind = examples.example_list
    if CONTEXT in document:
        kind = examples.example_list_with_context
        _fill_example(document[CONTEXT], kind.context)
    if EXAMPLES not in document:
        raise invalid(
            f"JSON Value: {shown(document)} When method is classify, key '{EXAMPLES}' is expected "
            "and was not found"
        )
    values = document[EXAMPLES]
    if not isinstance(values, list):
        raise invalid(
            f"JSON Value: {shown(document)} Expecting '{EXAMPLES}' value to be an list/array"
        )
    if not values:
        raise invalid(f"JSON Value: {shown(document)} '{EXAMPLES}' value is an empty array")
    for value in values:
        _fill_example(value, kind.examples.add())


def _fill_example(value: Any, example: tf.train.Example) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_type(value)}")
    for name, content in value.items():
        feature = example.features.feature[as_text(name)]
        for item in content if isinstance(content, list) else [content]:
            _add_to_feature(item, name, feature)


def _add_to_feature(value: Any, name: str, feature: tf.train.Feature) -> None:
    if isinstance(value, bool):
        kind, converted = "int64_list", int(value)
    elif isinstance(value, str):
        kind, converted = "bytes_list", encode(value)
    elif is_base64(value):
        kind, converted = "bytes_list", decode_base64(value)
    elif isinstance(value, int | float):
        kind, converted = _feature_number(value, name)
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    before = feature.WhichOneof("kind")
    if before not in (None, kind):
        raise invalid(
            f"Unexpected element type in feature: {name} expecting type: "
            f"{before.removesuffix('_list')}"
        )
    getattr(feature, kind).value.append(converted)


def _feature_number(value: int | float, name: str) -> tuple[str, int | float]:
    """Returns where a feature holds a number, and the number as it does."""
    if isinstance(value, int) and value in INT64:
        return "int64_list", value
    if isinstance(value, int) and value in UINT64:
        raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
    return "float_list", as_float(value)


def as_text(name: str) -> str:
    """Returns a name that a message can hold."""
    return encode(name).decode("utf-8", "replace")


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _bracketed(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
