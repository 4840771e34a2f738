"""A model that shows what a server does with requests, and needs no training."""

import pathlib
import time
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
PNG = tf.io.encode_png(PIXELS).numpy()
OTHER_PNG = tf.io.encode_png(PIXELS[::-1, :5] // 2).numpy()
INPUTS = {
    "image_bytes": tf.constant([PNG, PNG]),
    "keep_rows": tf.constant([1, 2]),
    "temperature": tf.constant([1.0, 1.0]),
    "top_k": tf.constant([0, 0]),
    "top_p": tf.constant([1.0, 1.0]),
    "seed": tf.constant([1, 2], tf.int64),
}
COMPLETION_OUTPUTS = {"png_bytes", "pixels", "tokens", "log_likelihood"}
# Steps that no test waits for.
ENDLESS = 2**31 - 1


def save_counting_model(directory: pathlib.Path, version: int) -> pathlib.Path:
    """`value` [B] comes back with the version added, after `steps` [B] steps of a loop.

    It refuses negative values. `batch_size` [B] says how many ran together.
    """
    module = tf.Module()
    module.version = tf.Variable(float(version))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32, "value"),
            tf.TensorSpec([None], tf.int32, "steps"),
        ]
    )
    def count(value, steps):
        check = tf.debugging.Assert(tf.reduce_all(value >= 0), ["value must be at least 0", value])
        last = tf.reduce_max(tf.concat([steps, [0]], axis=0))
        with tf.control_dependencies([check]):
            (step,) = tf.while_loop(
                lambda step: step < last, lambda step: (step + 1,), (tf.constant(0),)
            )
        with tf.control_dependencies([step]):
            size = tf.size(value)
            return {"value": value + module.version, "batch_size": tf.fill([size], size)}

    folder = directory / str(version)
    partial = directory / f".{version}.partial"
    tf.saved_model.save(module, str(partial), {"serving_default": count})
    partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def counting(tmp_path_factory) -> pathlib.Path:
    """A directory with version 1 of the counting model; not to be changed."""
    directory = tmp_path_factory.mktemp("counting")
    save_counting_model(directory, 1)
    return directory


def count_request(*values: float, steps: int = 0, name: str = "igpt", version: int | None = None):
    """A request for the counting model."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    request.inputs["value"].CopyFrom(tf.make_tensor_proto(list(values), tf.float32))
    request.inputs["steps"].CopyFrom(tf.make_tensor_proto([steps] * len(values), tf.int32))
    return request


def counted(response) -> list[float]:
    return tf.make_ndarray(response.outputs["value"]).tolist()


def ran_with(response) -> list[int]:
    return tf.make_ndarray(response.outputs["batch_size"]).tolist()


@pytest.fixture
def connect():
    """Gives a stub for a server, whose channel is closed in the end."""
    channels = []

    def stub(server, stub_class=prediction_service_pb2_grpc.PredictionServiceStub):
        channels.append(grpc.insecure_channel(server.address))
        return stub_class(channels[-1])

    yield stub
    for channel in channels:
        channel.close()


def refused(call, request, timeout: float = 30) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=timeout)
    assert "Traceback" not in caught.value.details()
    return caught.value.code(), caught.value.details()


def wait_until(condition):
    """Polls for something that a server does in its own time."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def scrape(server):
    """Metrics by name and labels, as Prometheus reads them."""
    with urllib.request.urlopen(server.metrics_address, timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            metric(sample.name, **sample.labels): sample.value
            for family in families
            for sample in family.samples
        }


def scrape_when_counted(server, calls: int):
    """Metrics when so many calls are counted, which is after their answers are sent."""

    def count(metrics):
        name = "igpt_serving_request_seconds_count"
        return sum(value for key, value in metrics.items() if key[0] == name)

    wait_until(lambda: count(scrape(server)) == calls)
    return scrape(server)


def metric(name, **labels):
    """The key of a metric in what `scrape` returns."""
    return (name, *sorted(labels.items()))


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def predict_request(inputs=INPUTS, signature_name="", name="igpt", version=None, **fields):
    request = predict_pb2.PredictRequest(**fields)
    request.model_spec.name = name
    request.model_spec.signature_name = signature_name
    if version is not None:
        request.model_spec.version.value = version
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request
