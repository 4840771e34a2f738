"""Conversion between protocol buffers and arrays.

The checks, their order and their messages are TensorFlow Serving's, from predict_util.cc,
classifier.cc and util.cc in tensorflow_serving/servables/tensorflow and util.cc in
tensorflow/cc/saved_model.
"""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, input_pb2

from serving.server import tensor_protos
from serving.server.errors import RequestError, invalid
from serving.server.tensorflow_internals import SignatureDef, TensorProto

SERVING_DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
CLASSIFY_METHOD = tf.saved_model.CLASSIFY_METHOD_NAME
CLASSES = tf.saved_model.CLASSIFY_OUTPUT_CLASSES
SCORES = tf.saved_model.CLASSIFY_OUTPUT_SCORES
PREDICT_METHODS = (
    tf.saved_model.PREDICT_METHOD_NAME,
    CLASSIFY_METHOD,
    tf.saved_model.REGRESS_METHOD_NAME,
)


def signature_name(request: Any) -> str:
    """Returns the name of the signature that a request asks for."""
    return request.model_spec.signature_name or SERVING_DEFAULT


def predict_signature(signatures: Mapping[str, SignatureDef], name: str) -> SignatureDef:
    """Returns the signature `name`, which must be one for Predict."""
    if name not in signatures:
        raise RequestError(
            grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
        )
    signature = signatures[name]
    if signature.method_name not in PREDICT_METHODS:
        raise RequestError(
            grpc.StatusCode.INTERNAL,
            "Expected prediction signature method_name to be one of "
            f"{{{', '.join(PREDICT_METHODS)}}}. Was: {signature.method_name}",
        )
    return signature


def predict_inputs(
    signature: SignatureDef, inputs: Mapping[str, TensorProto], max_examples: int
) -> dict[str, np.ndarray]:
    """Reads the inputs of a Predict request.

    Args:
        signature: The signature that the request names.
        inputs: The request's tensors by name.
        max_examples: The largest first dimension.

    Returns:
        An array for each input of the signature.

    Raises:
        RequestError: INVALID_ARGUMENT, the inputs do not fit the signature.
    """
    sent, required = set(inputs), set(signature.inputs)
    if len(sent) != len(required):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(required)} "
            f"len({_braced(sent)}) != len({_braced(required)}). "
            f"Sent extra: {_braced(sent - required)}. "
            f"Missing but required: {_braced(required - sent)}."
        )
    for alias in sorted(required - sent):
        raise invalid(
            f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found "
            "in request and no default value provided. Inputs expected to be in the request "
            f"{_braced(sent)}, or default input alias set: "
        )
    return {
        name: _array(name, inputs[name], info, max_examples)
        for name, info in signature.inputs.items()
    }


def _array(name: str, proto: TensorProto, info, max_examples: int) -> np.ndarray:
    """Reads input `name` and checks it against its dtype and shape in the signature."""
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise invalid(f"tensor parsing error: {name}")
    expected = tf.dtypes.as_dtype(info.dtype)
    if proto.dtype != info.dtype:
        got = tf.dtypes.as_dtype(proto.dtype).name if _is_dtype(proto.dtype) else "invalid"
        raise invalid(f"Expected input {name} to be {expected.name} but {got} is provided")
    wanted = tf.TensorShape(info.tensor_shape)
    if not wanted.is_compatible_with(shape):
        raise invalid(f"Expected input {name} to have shape {wanted} but got {shape}")
    # Omitted values repeat the last one, so that a few bytes may stand for any size.
    if shape and shape[0] > max_examples:
        raise invalid(
            f"Task size {shape[0]} is larger than maximum input batch size {max_examples}"
        )
    try:
        return tensor_protos.array(proto)
    except ValueError:
        raise invalid(f"tensor parsing error: {name}") from None


def _is_dtype(number: int) -> bool:
    try:
        tf.dtypes.as_dtype(number)
    except TypeError:
        return False
    return True


def predict_outputs(signature: SignatureDef, output_filter: Sequence[str]) -> list[str]:
    """Returns the names of the outputs that a request asks for: all if it names none."""
    for index, name in enumerate(output_filter):
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_braced(signature.outputs)}."
            )
        if name in output_filter[:index]:
            raise invalid(f"duplicate output tensor alias: {name}")
    return list(output_filter) or sorted(signature.outputs)


def batch_size(inputs: Mapping[str, np.ndarray]) -> int:
    """Returns the first dimension, which all inputs must share."""
    if not inputs:
        raise invalid("Batching Run() must have at least one input tensor")
    if any(values.ndim == 0 for values in inputs.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {len(values) for values in inputs.values()}
    if len(sizes) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def classify_signature(signatures: Mapping[str, SignatureDef], name: str) -> SignatureDef:
    """Returns the signature `name`, which must be one for Classify."""
    if name not in signatures:
        raise invalid(f"No signature was found with the name: {name}")
    signature = signatures[name]
    if signature.method_name != CLASSIFY_METHOD:
        raise invalid(
            f"Expected classification signature method_name to be {CLASSIFY_METHOD}. "
            f"Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if tf.saved_model.CLASSIFY_INPUTS not in signature.inputs:
        raise RequestError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"No classification inputs found in SignatureDef: {_braced(signature.inputs)}",
        )
    if CLASSES not in signature.outputs and SCORES not in signature.outputs:
        raise RequestError(
            grpc.StatusCode.FAILED_PRECONDITION,
            "Expected classification signature outputs to contain at least one of "
            f'"{CLASSES}" or "{SCORES}".',
        )
    return signature


def check_regress_signature(signatures: Mapping[str, SignatureDef], name: str) -> None:
    """Checks that `name` is a signature for Regress."""
    if name not in signatures:
        raise invalid(f"No signature was found with the name: {name}")
    if signatures[name].method_name != tf.saved_model.REGRESS_METHOD_NAME:
        raise invalid(
            "Expected regression signature method_name to be "
            f"{tf.saved_model.REGRESS_METHOD_NAME}. Was: {signatures[name].method_name}"
        )


def classify_inputs(examples: input_pb2.Input, max_examples: int) -> dict[str, np.ndarray]:
    """Reads the examples of a Classify request: serialized `tf.Example`s, object [B]."""
    kind = examples.WhichOneof("kind")
    serialized = [] if kind is None else _serialized(getattr(examples, kind))
    if not serialized:
        raise invalid("Input is empty.")
    if len(serialized) > max_examples:
        raise invalid(
            f"Task size {len(serialized)} is larger than maximum input batch size {max_examples}"
        )
    # NumPy's own byte strings lose trailing zeros.
    array = np.empty(len(serialized), dtype=object)
    array[:] = serialized
    return {tf.saved_model.CLASSIFY_INPUTS: array}


def _serialized(examples) -> list[bytes]:
    # Parsing concatenated messages merges them, so each example gets the context's features.
    context = b""
    if isinstance(examples, input_pb2.ExampleListWithContext):
        context = examples.context.SerializeToString()
    return [context + example.SerializeToString() for example in examples.examples]


def classification_result(
    outputs: Mapping[str, np.ndarray],
) -> classification_pb2.ClassificationResult:
    """Writes the answer to Classify.

    Args:
        outputs: `classes` string [B, C], `scores` float32 [B, C], or both.
    """
    result = classification_pb2.ClassificationResult()
    columns = {
        field: outputs[name]
        for field, name in (("label", CLASSES), ("score", SCORES))
        if name in outputs
    }
    for row in zip(*columns.values(), strict=True):
        classes = result.classifications.add().classes
        for values in zip(*row, strict=True):
            classes.add(**dict(zip(columns, values, strict=True)))
    return result


def _braced(names) -> str:
    return "{" + ",".join(sorted(names)) + "}"
