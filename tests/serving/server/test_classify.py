"""Classify, beside Predict on the same images."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
)

from tests.serving.server.conftest import (
    OTHER_PNG,
    PNG,
    predict_request,
    refused,
)

# A header of 60,000² pixels.
HUGE = PNG[:16] + b"\0\0\xea\x60" * 2


def classify_request(*contents, signature_name="classify", name="igpt", context=None):
    examples = [example(content) for content in contents]
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature_name
    if context is None:
        request.input.example_list.examples.extend(examples)
    else:
        request.input.example_list_with_context.examples.extend(examples)
        request.input.example_list_with_context.context.CopyFrom(context)
    return request


def example(content=None):
    features = {}
    if content is not None:
        bytes_list = tf.train.BytesList(value=[content])
        features["image/encoded"] = tf.train.Feature(bytes_list=bytes_list)
    return tf.train.Example(features=tf.train.Features(feature=features))


@pytest.mark.parametrize("with_context", [False, True])
def test_classify_gives_the_classes_that_predict_gives(stub, with_context):
    inputs = {"image_bytes": tf.constant([PNG, OTHER_PNG])}
    outputs = stub.Predict(predict_request(inputs, "classify_images"), timeout=30).outputs
    request = classify_request(PNG, OTHER_PNG)
    if with_context:
        request = classify_request(None, None, context=example(PNG))
        outputs = stub.Predict(
            predict_request({"image_bytes": tf.constant([PNG, PNG])}, "classify_images"),
            timeout=30,
        ).outputs
    response = stub.Classify(request, timeout=30)
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("igpt", 1, "classify")
    rows = response.result.classifications
    labels = [[label.label for label in row.classes] for row in rows]
    assert labels == [["chat", "chien", "écureuil"]] * 2
    np.testing.assert_array_equal(
        np.float32([[label.score for label in row.classes] for row in rows]),
        tf.make_ndarray(outputs["scores"]),
    )


@pytest.mark.parametrize(
    "request_, code, message",
    [
        (
            classification_pb2.ClassificationRequest(),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Missing ModelSpec",
        ),
        (classify_request(PNG, name="gpt"), grpc.StatusCode.NOT_FOUND, "Latest(gpt)"),
        (classify_request(), grpc.StatusCode.INVALID_ARGUMENT, "Input is empty."),
        (
            classify_request(PNG, signature_name="classes"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "No signature was found with the name: classes",
        ),
        (
            classify_request(PNG, signature_name="classify_images"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Expected classification signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/predict",
        ),
        (
            classify_request(None),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Feature: image/encoded (data type: string) is required but could not be found",
        ),
        (classify_request(b"no image"), grpc.StatusCode.INVALID_ARGUMENT, "image"),
        (
            classify_request(PNG, HUGE),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "must declare at most 33554432 pixels together, got 3600000035",
        ),
    ],
    ids=["no model", "model", "empty", "signature", "method", "feature", "image", "pixels"],
)
def test_classify_refuses(stub, request_, code, message):
    got_code, got_message = refused(stub.Classify, request_)
    assert got_code == code
    assert message in got_message


def test_predict_takes_classification_signatures_too(stub):
    inputs = {"inputs": tf.constant([example(PNG).SerializeToString()])}
    response = stub.Predict(predict_request(inputs, "classify"), timeout=30)
    assert set(response.outputs) == {"classes", "scores"}
    huge = {"inputs": tf.constant([example(HUGE).SerializeToString()])}
    code, _ = refused(stub.Predict, predict_request(huge, "classify"))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
