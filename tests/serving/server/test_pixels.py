"""The budgets of declared pixels, by themselves and in a server."""

import contextlib
import io
import struct

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import prediction_service_pb2_grpc

from igpt_keras import InputError
from serving.server import Server
from serving.server.errors import RequestError
from serving.server.pixels import PixelBudget, pixels_of
from tests.serving.server.conftest import (
    ENDLESS,
    metric,
    predict_request,
    refused,
    scrape,
    wait_until,
)

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def png(width, height, color=0):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (color, 0, 0)).save(file, "PNG")
    return file.getvalue()


def strings(*contents):
    return np.array([*contents, None], object)[:-1]


def example(**features):
    lists = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        for name, values in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=lists))


def test_pixels_of_the_strings_that_are_images():
    inputs = {
        "image_bytes": strings(png(3, 4), png(5, 6), png(3, 4), b"no image"),
        "others": strings(png(7, 8)),
        "seed": np.arange(4),
    }
    assert pixels_of(inputs) == 2 * 3 * 4 + 5 * 6 + 7 * 8
    assert pixels_of({"nothing": np.zeros((0, 2), object)}) == 0


def test_pixels_of_images_in_examples():
    serialized = [
        example(a=[png(3, 4), png(5, 6)], b=[b"no image"]).SerializeToString(),
        example(a=[png(3, 4)]).SerializeToString(),
    ]
    assert pixels_of({"inputs": strings(*serialized)}, examples=True) == 2 * 3 * 4 + 5 * 6
    with pytest.raises(RequestError, match="Could not parse example input"):
        pixels_of({"inputs": strings(b"\x89")}, examples=True)


def test_a_client_never_holds_more_than_it_leaves_free():
    """Random requests, which are compared with the rule written out."""
    generator = np.random.default_rng(0)
    budget = PixelBudget(30, 100)
    held: list[tuple[contextlib.ExitStack, int, str]] = []
    refusals = 0
    for _ in range(3000):
        if held and generator.random() < 0.4:
            stack, *_ = held.pop(generator.integers(len(held)))
            stack.close()
            continue
        pixels, client = int(generator.integers(0, 35)), "abc"[generator.integers(3)]
        total = sum(size for _, size, _ in held) + pixels
        own = sum(size for _, size, owner in held if owner == client) + pixels
        stack = contextlib.ExitStack()
        try:
            stack.enter_context(budget.hold(pixels, client))
        except RequestError as error:
            assert error.code == EXHAUSTED
            assert pixels > 30 or own > 100 - total
            refusals += 1
        else:
            assert pixels <= 30 and (not pixels or own <= 100 - total <= 100)
            held.append((stack, pixels, client))
        assert budget.in_flight == sum(size for _, size, _ in held)
    assert sum(budget.refused.values()) == refusals > 100
    for stack, *_ in held:
        stack.close()
    assert budget.in_flight == 0


def test_a_few_clients_leave_room_for_the_small_request_of_another():
    budget = PixelBudget(250, 1000)
    with contextlib.ExitStack() as stack:
        for client in "abcd":
            for pixels in (250, 100, 50, 20) * 4:
                with contextlib.suppress(RequestError):
                    stack.enter_context(budget.hold(pixels, client))
        assert budget.in_flight > 800
        stack.enter_context(budget.hold(16, "bystander"))
    stack.enter_context(budget.hold(250, "bystander"))


@pytest.mark.parametrize(
    "limits, message",
    [
        ((0, 10), "max_request_pixels must be at least 1, got 0"),
        (
            (10, 19),
            r"max_pixels_in_flight must be at least twice max_request_pixels \(10\), got 19",
        ),
    ],
)
def test_limits_that_allow_nothing(limits, message):
    with pytest.raises(InputError, match=message):
        PixelBudget(*limits)


@pytest.fixture(scope="module")
def measuring(tmp_path_factory):
    """A directory with a model that says how many bytes an image has, after `steps` of a loop."""
    directory = tmp_path_factory.mktemp("measuring")
    module = tf.Module()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "image_bytes"),
            tf.TensorSpec([None], tf.int32, "steps"),
        ]
    )
    def measure(image_bytes, steps):
        last = tf.reduce_max(steps)
        (step,) = tf.while_loop(lambda n: n < last, lambda n: (n + 1,), (tf.constant(0),))
        with tf.control_dependencies([step]):
            return {"length": tf.strings.length(image_bytes)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, "image_bytes")])
    def measure_one(image_bytes):
        return {"length": tf.strings.length(image_bytes)}

    signatures = {"serving_default": measure, "one": measure_one}
    tf.saved_model.save(module, str(directory / "1"), signatures)
    return directory


def request(*images, steps=0):
    inputs = {"image_bytes": tf.constant(images), "steps": tf.constant([steps] * len(images))}
    return predict_request(inputs)


def lengths(response):
    return tf.make_ndarray(response.outputs["length"]).tolist()


def test_the_images_of_a_request_add_up(measuring, connect):
    limits = {"max_request_pixels": 1000, "max_pixels_in_flight": 2000}
    images = [png(20, 25, color) for color in range(3)]
    with Server(measuring, **limits, metrics_port=0) as server:
        stub = connect(server)
        for image in (png(1001, 1), png(1, 1)[:16] + struct.pack(">II", 1 << 31, 1 << 31)):
            code, message = refused(stub.Predict, request(image))
            assert (code, message[:30]) == (EXHAUSTED, "the images of a request must d")
        for several in (images, images[:1] * 3):
            code, message = refused(stub.Predict, request(*several))
            assert code == EXHAUSTED
            assert message.endswith("at most 1000 pixels together, got 1500")
        # Values left out repeat the last one.
        repeated = request(*images[:1] * 3)
        del repeated.inputs["image_bytes"].string_val[1:]
        assert refused(stub.Predict, repeated)[0] == EXHAUSTED
        alone = predict_request({"image_bytes": tf.constant(png(1001, 1))}, "one")
        assert refused(stub.Predict, alone)[0] == EXHAUSTED
        assert lengths(stub.Predict(request(*images[:2]), timeout=30)) == list(map(len, images[:2]))
        metrics = scrape(server)
    counted = metric("igpt_serving_refused_for_pixels_total", limit="max_request_pixels")
    assert metrics[counted] == 6
    assert metrics[metric("igpt_serving_pixels_in_flight")] == 0


def test_requests_in_flight_add_up_for_each_connection(measuring, connect):
    limits = {"max_request_pixels": 1000, "max_pixels_in_flight": 2000}
    with Server(measuring, **limits, metrics_port=0) as server:
        stub = connect(server)
        in_flight = metric("igpt_serving_pixels_in_flight")
        heavy = stub.Predict.future(request(png(10, 100), steps=ENDLESS))
        wait_until(lambda: scrape(server)[in_flight] == 1000)
        code, message = refused(stub.Predict, request(png(1, 1)))
        assert code == EXHAUSTED
        assert message == (
            "the requests in flight declare 1000 of at most 2000 pixels, 1000 of them this "
            "client's; there is no room for 1 more"
        )
        # A request without images needs no room, and another client has some.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.address, options) as channel:
            other = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert refused(other.Predict, request(png(10, 60)))[0] == EXHAUSTED
            waiting = other.Predict.future(request(png(10, 50)), timeout=30)
            wait_until(lambda: scrape(server)[in_flight] == 1500)
            heavy.cancel()
            assert len(lengths(waiting.result())) == 1
        wait_until(lambda: scrape(server)[in_flight] == 0)
        assert len(lengths(stub.Predict(request(png(10, 100)), timeout=30))) == 1
