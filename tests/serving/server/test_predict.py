"""Predict on the exported models: answers and refusals in TensorFlow Serving's words."""

import gc

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server import tensorflow_internals
from serving.server.saved_model import SavedModel
from tests.serving.server.conftest import (
    COMPLETION_OUTPUTS,
    INPUTS,
    OTHER_PNG,
    PNG,
    predict_request,
    refused,
)


def test_predict_answers_with_all_outputs(stub):
    response = stub.Predict(predict_request(), timeout=30)
    assert set(response.outputs) == COMPLETION_OUTPUTS
    outputs = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
    assert outputs["pixels"].dtype == np.uint8 and outputs["pixels"].shape == (2, 4, 4, 3)
    assert outputs["tokens"].dtype == np.int32 and outputs["tokens"].shape == (2, 16)
    assert outputs["log_likelihood"].dtype == np.float32
    decoded = [tf.io.decode_png(png) for png in outputs["png_bytes"]]
    np.testing.assert_array_equal(decoded, outputs["pixels"])


def test_predict_says_what_answered(stub):
    spec = stub.Predict(predict_request(), timeout=30).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("igpt", 1, "serving_default")
    inputs = {"image_bytes": INPUTS["image_bytes"]}
    response = stub.Predict(predict_request(inputs, "classify_images"), timeout=30)
    assert response.model_spec.signature_name == "classify_images"
    assert set(response.outputs) == {"classes", "scores", "logits"}


def test_the_version_can_be_asked_for(stub):
    assert stub.Predict(predict_request(version=1), timeout=30).model_spec.version.value == 1


def test_the_output_filter_is_honoured(stub):
    response = stub.Predict(predict_request(output_filter=["tokens"]), timeout=30)
    assert set(response.outputs) == {"tokens"}


def without(name):
    return {key: value for key, value in INPUTS.items() if key != name}


REFUSED_REQUESTS = {
    "unknown model": (
        predict_request(name="gpt"),
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(gpt)",
    ),
    "unknown version": (
        predict_request(version=7),
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(igpt, 7)",
    ),
    "no model": (
        predict_pb2.PredictRequest(),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Missing ModelSpec",
    ),
    "no model name": (
        predict_request(name=""),
        grpc.StatusCode.INVALID_ARGUMENT,
        "ModelSpec has no name specified.",
    ),
    "version label": (
        predict_pb2.PredictRequest(model_spec={"name": "igpt", "version_label": "stable"}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unrecognized servable version label: stable",
    ),
    "unknown signature": (
        predict_request(signature_name="colorize"),
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "colorize" not found.',
    ),
    "missing input": (
        predict_request(without("seed")),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Missing but required: {seed}.",
    ),
    "extra input": (
        predict_request({**INPUTS, "bias": tf.constant([0.0])}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "input size does not match signature: 7!=6",
    ),
    "misnamed input": (
        predict_request({**without("seed"), "seeds": INPUTS["seed"]}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "not found in request and no default value provided. Inputs expected to be in the "
        "request {image_bytes,keep_rows,seeds,temperature,top_k,top_p}",
    ),
    "wrong dtype": (
        predict_request({**INPUTS, "keep_rows": tf.constant([1.0, 2.0])}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "keep_rows to be int32 but float32 is provided",
    ),
    "wrong rank": (
        predict_request({**INPUTS, "keep_rows": tf.constant(1)}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "keep_rows to have shape (None,) but got []",
    ),
    "batch sizes that differ": (
        predict_request({**INPUTS, "keep_rows": tf.constant([1])}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Batching Run() input tensors must have equal 0th-dimension size",
    ),
    "setting out of range": (
        predict_request({**INPUTS, "top_p": tf.constant([0.5, 1.5])}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "top_p must be above 0 and at most 1, got] [0.5 1.5]",
    ),
    "not an image": (
        predict_request({**INPUTS, "image_bytes": tf.constant([PNG, b"no image"])}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unknown image file format",
    ),
    "half an image": (
        predict_request({**INPUTS, "image_bytes": tf.constant([PNG, PNG[:60]])}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Invalid PNG data",
    ),
    "unknown output": (
        predict_request(output_filter=["logits"]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "output tensor alias not found in signature: logits",
    ),
    "output asked for twice": (
        predict_request(output_filter=["tokens", "tokens"]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "duplicate output tensor alias: tokens",
    ),
}


@pytest.mark.parametrize(
    "request_, code, message", REFUSED_REQUESTS.values(), ids=REFUSED_REQUESTS.keys()
)
def test_predict_refuses(stub, request_, code, message):
    got_code, got_message = refused(stub.Predict, request_)
    assert got_code == code
    assert message in got_message


def test_requests_beyond_grpcs_own_limit_are_answered(server):
    # Noise does not compress: this PNG is above gRPC's own 4 MiB.
    image = tf.io.encode_png(np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), np.uint8))
    request = predict_request({"image_bytes": image[None]}, "classify_images")
    assert request.ByteSize() > 4 * 1024 * 1024
    with grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert len(stub.Predict(request, timeout=30).outputs) == 3


def test_what_a_completion_runs_with_does_not_matter(stub):
    """Each alone, and all at the same time: `keep_rows`, settings and images differ."""
    requests = [
        predict_request(
            {
                "image_bytes": tf.constant([png]),
                "keep_rows": tf.constant([number % 5]),
                "temperature": tf.constant([0.5 + number / 4]),
                "top_k": tf.constant([number % 3 * 3]),
                "top_p": tf.constant([1.0 - number / 20]),
                "seed": tf.constant([number // 2], tf.int64),
            },
            "complete",
        )
        for number, png in enumerate([PNG, OTHER_PNG] * 6)
    ]
    alone = [stub.Predict(request, timeout=60).outputs for request in requests]
    calls = [stub.Predict.future(request, timeout=60) for request in requests]
    together = [call.result().outputs for call in calls]
    for first, second in zip(alone, together, strict=True):
        for name in ("tokens", "pixels", "png_bytes"):
            np.testing.assert_array_equal(*(tf.make_ndarray(x[name]) for x in (first, second)))
        np.testing.assert_allclose(
            *(tf.make_ndarray(x["log_likelihood"]) for x in (first, second)), rtol=1e-5, atol=1e-5
        )
    assert len({tf.make_ndarray(x["tokens"]).tobytes() for x in alone}) > 6


def test_a_model_that_was_dropped_leaves_no_function_behind(exported):
    """Else a server whose versions change grows without end."""
    gc.collect()
    before = tensorflow_internals.function_names()
    model = SavedModel(exported / "1")
    assert len(tensorflow_internals.function_names()) > len(before)
    del model
    gc.collect()
    assert tensorflow_internals.function_names() == before
