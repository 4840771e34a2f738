"""REST and gRPC give the same answers, for every signature of an export."""

import base64
import json

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, predict_pb2

from tests.serving.server.conftest import INPUTS, OTHER_PNG, PNG

SIGNATURES = ("complete", "sample", "score", "features", "classify_images", "serving_default")


@pytest.fixture(scope="module")
def both(server, stub):
    """The URL of REST, and a stub."""
    return server.rest_address, stub


def inputs_of(signature):
    """Two examples for a signature, as arrays."""
    arrays = {name: tensor.numpy() for name, tensor in INPUTS.items()}
    arrays["image_bytes"] = np.array([PNG, OTHER_PNG], object)
    if signature == "sample":
        del arrays["image_bytes"], arrays["keep_rows"]
    elif signature not in ("complete", "serving_default"):
        arrays = {"image_bytes": arrays["image_bytes"]}
    return arrays


def jsonable(array):
    if array.dtype == object:
        return [{"b64": base64.b64encode(value).decode()} for value in array]
    return array.tolist()


def parsed(value, array):
    """An output in JSON as an array like that of gRPC."""
    if array.dtype != object:
        return np.array(value, array.dtype)
    flat = []
    for item in value:
        items = item if isinstance(item, list) else [item]
        flat += [
            base64.b64decode(one["b64"]) if isinstance(one, dict) else one.encode() for one in items
        ]
    return np.array(flat, object).reshape(array.shape)


@pytest.mark.parametrize("signature", SIGNATURES)
def test_predict(both, signature):
    rest, stub = both
    arrays = inputs_of(signature)
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "igpt", signature
    for name, array in arrays.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    expected = {
        name: tf.make_ndarray(tensor)
        for name, tensor in stub.Predict(request, timeout=60).outputs.items()
    }
    columns = {name: jsonable(array) for name, array in arrays.items()}
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    for key, value, answer_key in (
        ("inputs", columns, "outputs"),
        ("instances", rows, "predictions"),
    ):
        answer = requests.post(
            f"{rest}/v1/models/igpt:predict",
            json={"signature_name": signature, key: value},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        got = answer.json()[answer_key]
        if len(expected) == 1:
            got = (
                {next(iter(expected)): got}
                if key == "inputs"
                else [{next(iter(expected)): row} for row in got]
            )
        if key == "instances":
            got = {name: [row[name] for row in got] for name in got[0]}
        assert got.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(parsed(got[name], array), array, err_msg=name)


def test_classify(both):
    rest, stub = both
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "igpt", "classify"
    for image in (PNG, OTHER_PNG):
        feature = request.input.example_list.examples.add().features.feature["image/encoded"]
        feature.bytes_list.value.append(image)
    result = stub.Classify(request, timeout=60).result
    expected = [
        [[entry.label, np.float32(entry.score)] for entry in classification.classes]
        for classification in result.classifications
    ]
    examples = [
        {"image/encoded": {"b64": base64.b64encode(image).decode()}} for image in (PNG, OTHER_PNG)
    ]
    answer = requests.post(
        f"{rest}/v1/models/igpt:classify",
        data=json.dumps({"signature_name": "classify", "examples": examples}),
        timeout=60,
    )
    got = [
        [[label, np.float32(score)] for label, score in classes]
        for classes in answer.json()["results"]
    ]
    assert got == expected


def test_every_signature_is_compared(both):
    rest, _ = both
    metadata = requests.get(f"{rest}/v1/models/igpt/metadata", timeout=30).json()
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    ours = {name for name in signatures if not name.startswith("__")}
    assert ours == {*SIGNATURES, "classify"}


@pytest.mark.parametrize("signature", ["complete", "features"])
def test_refusals(both, signature):
    """What only the model or the server can refuse is refused with the same words."""
    rest, stub = both
    arrays = inputs_of(signature)
    arrays["image_bytes"] = np.array([PNG, b"no image"], object)
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "igpt", signature
    for name, array in arrays.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, timeout=60)
    columns = {name: jsonable(array) for name, array in arrays.items()}
    answer = requests.post(
        f"{rest}/v1/models/igpt:predict",
        json={"signature_name": signature, "inputs": columns},
        timeout=60,
    )
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert answer.status_code == 400
    assert answer.json() == {"error": caught.value.details()}
