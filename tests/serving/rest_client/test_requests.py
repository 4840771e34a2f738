"""What a client asks for: paths, bodies and their sizes."""

import base64
import json
import urllib.parse

import numpy as np
import pytest

from igpt_keras.sampling.requests import completion_seeds
from igpt_keras.sampling.samplers import Categorical
from serving.client import Client, ServingError, VersionStatus, rest_json
from serving.client.carriers import ModelSpec
from serving.client.images import encoded_images
from serving.client.queries import Served
from serving.client.rest import RestCarrier
from tests.serving.rest_client.asking import (
    FEATURES,
    HALF_PLUS_TWO,
    IMAGE,
    METADATA,
    MODEL,
    PREDICT,
    both,
    metadata,
)
from tests.serving.rest_server import Reply
from tests.serving.test_protocol import ARRAYS

STATUS = b"""{
 "model_version_status": [
  {
   "version": "123",
   "state": "AVAILABLE",
   "status": {
    "error_code": "OK",
    "error_message": ""
   }
  }
 ]
}
"""


@both
def test_the_answer_is_to_be_json_that_is_not_compressed(server, ask):
    # Types have no case (RFC 9110, 8.3.1).
    server.replies[PREDICT].content_type = "Application/JSON ; charset=UTF-8"
    assert ask(server.address).shape == (1, 3)
    for request in server.requests:
        assert request.headers["Accept"] == "application/json"
        # Parts of the answer are taken as they come; "identity" is no compression.
        assert request.headers["Accept-Encoding"] == "identity"
    assert server.requests[-1].headers["Content-Type"] == "application/json"


def test_dtypes_are_asked_for_once(server):
    server.replies = {METADATA: Reply(HALF_PLUS_TWO), PREDICT: Reply(b'{ "outputs": [3.5, 4.0] }')}
    with Client(server.address) as client:
        for _ in range(3):
            client.predict("", {"x": [3.0, 4.0]})
        assert client.signatures() == ["classify_x_to_y", "serving_default"]
    assert len(server.bodies(METADATA)) == 2
    assert [request.method for request in server.requests] == ["GET", *["POST"] * 3, "GET"]


def test_a_new_version_may_have_other_inputs_and_outputs(server):
    old, new = (
        metadata({"x": "DT_FLOAT"}, {"y": "DT_FLOAT"}),
        metadata({"x": "DT_FLOAT"}, {"y": "DT_INT32", "z": "DT_INT32"}),
    )
    newest = metadata({"w": "DT_FLOAT"}, {"y": "DT_INT32", "z": "DT_INT32"})
    server.replies = {
        METADATA: [old, new, newest],
        PREDICT: [Reply(b'{"outputs": [1.5]}'), Reply(b'{"outputs": {"y": [1], "z": [2]}}')],
    }
    with Client(server.address) as client:
        assert client.predict("features", {"x": [0.0]})["y"].dtype == np.float32
        assert client.predict("features", {"x": [0.0]})["z"].dtype == np.int32
        assert client.predict("features", {"w": [0.0]}, ["z"]).keys() == {"z"}
        with pytest.raises(ServingError, match=r"INVALID_ARGUMENT: inputs must be \['w'\], got"):
            client.predict("features", {"w": [0.0], "x": [0.0]})
        with pytest.raises(ServingError, match=r"outputs must be among \['y', 'z'\], got \['u'\]"):
            client.predict("features", {"w": [0.0]}, ["u"])
    assert len(server.bodies(PREDICT)) == 3


def test_no_part_of_a_request_is_larger_than_reckoned():
    carrier = RestCarrier("http://localhost:1", ModelSpec("igpt"), None, 1000)
    longest = [np.bool_(False), np.float64(np.finfo(np.float64).min)]
    for integers in map(np.iinfo, "bhilBHIL"):
        longest += [integers.dtype.type(integers.min), integers.dtype.type(integers.max)]
    strings = [b"", b"a", b"ab" * 500]
    arrays = [
        *(values for values in ARRAYS if values.ndim),
        *(np.full((2, 3), value) for value in longest),
        np.array(strings, object),
        np.array(strings),
    ]
    for values in arrays:
        written = json.dumps(rest_json.json_tensor(values), separators=(",", ":"))
        lists = sum(written.count(bracket) for bracket in ("[", "]", "],"))
        assert len(written) - lists <= carrier.bytes_of_each(values).sum()
    served = Served(carrier, batch_size=99, max_message_bytes=1000)
    contents = np.array([b"a" * 150] * 5, object)
    assert [len(contents[part]) for part in served.parts({"image_bytes": contents})] == [2, 2, 1]


def test_completions_are_asked_for_by_name(server):
    outputs = {
        "pixels": "DT_UINT8",
        "tokens": "DT_INT32",
        "log_likelihood": "DT_FLOAT",
        "png_bytes": "DT_STRING",
    }
    inputs = ("image_bytes", "keep_rows", "temperature", "top_k", "top_p", "seed")
    answer = {
        "pixels": np.arange(24).reshape(2, 2, 2, 3).tolist(),
        "tokens": [[1, 2, 3, 4], [5, 6, 7, 8]],
        "log_likelihood": [-1.5, -2.5],
        "png_bytes": [{"b64": "cG5n"}] * 2,
    }
    server.replies = {
        METADATA: metadata(dict.fromkeys(inputs, "DT_FLOAT"), outputs, "complete"),
        PREDICT: Reply(json.dumps({"outputs": answer}).encode()),
    }
    with Client(server.address) as client:
        completions = client.complete(
            IMAGE, keep_rows=1, num_completions=2, sampler=Categorical(0.9, top_k=3), seed=7
        )
    assert completions.images.dtype == np.uint8
    assert completions.images.shape == (1, 2, 2, 2, 3)
    assert completions.images.flatten().tolist() == [*range(24)]
    assert completions.tokens[0].tolist() == answer["tokens"]
    assert completions.log_likelihood.tolist() == [[-1.5, -2.5]]
    request = json.loads(server.bodies(PREDICT)[0])
    assert request["signature_name"] == "complete"
    sent = request["inputs"]
    assert [base64.b64decode(image["b64"]) for image in sent["image_bytes"]] == [
        *encoded_images(IMAGE)
    ] * 2
    assert sent["seed"] == completion_seeds(7, 1, 2)[0].tolist()
    assert np.float32(sent["temperature"]).tolist() == np.float32([0.9, 0.9]).tolist()
    assert (sent["keep_rows"], sent["top_k"], sent["top_p"]) == ([1, 1], [3, 3], [1.0, 1.0])


@both
def test_the_status_of_versions_is_read(server, ask):
    server.replies[MODEL] = Reply(STATUS)
    with Client(server.address) as client:
        assert client.status() == [VersionStatus(123, "AVAILABLE", "")]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"model_name": "photos", "version": 7}, "/v1/models/photos/versions/7"),
        ({"version": 0}, f"{MODEL}/versions/0"),
        ({"version_label": "stable"}, f"{MODEL}/labels/stable"),
        (
            {"model_name": "modelname!#$%&'()*+,/:;=?@[]", "version_label": "latest !é/%2F"},
            "/v1/models/modelname%21%23%24%25%26%27%28%29%2A%2B%2C%2F%3A%3B%3D%3F%40%5B%5D"
            "/labels/latest%20%21%C3%A9%2F%252F",
        ),
    ],
    ids=["version", "version 0", "label", "reserved"],
)
def test_versions_and_labels_are_in_the_path(server, options, path):
    replies = {
        path: Reply(STATUS),
        f"{path}/metadata": FEATURES,
        f"{path}:predict": server.replies[PREDICT],
    }

    def find(asked):
        # TensorFlow Serving splits a path first and unescapes its parts then.
        parts = [urllib.parse.unquote(part) for part in asked.split("/")]
        (found,) = [
            reply
            for known, reply in replies.items()
            if [urllib.parse.unquote(part) for part in known.split("/")] == parts
        ]
        return found

    server.reply = find
    with Client(server.address, **options) as client:
        assert client.features(IMAGE).tolist() == [[0.5, 1.0, 2.0]]
        assert client.status()[0].version == 123


@both
def test_messages_may_be_as_large_as_the_limit(server, ask):
    answer = b'{"outputs": [1.0]}'
    server.replies = {
        METADATA: metadata({"x": "DT_FLOAT"}, {"y": "DT_FLOAT"}),
        PREDICT: Reply(answer),
    }
    asked = ("predict", "features", {"x": np.full((1, 60), 1 / 3)})
    ask(server.address, *asked)
    size = len(server.bodies(PREDICT)[0])
    with pytest.raises(ServingError, match=f"RESOURCE_EXHAUSTED: a request of .* {size - 1}$"):
        ask(server.address, *asked, max_message_bytes=size - 1)
    assert len(server.bodies(PREDICT)) == 1
    server.replies[PREDICT] = Reply(answer.ljust(size))
    assert ask(server.address, *asked, max_message_bytes=size)["y"].tolist() == [1]
    server.replies[PREDICT] = Reply(answer.ljust(size + 1))
    with pytest.raises(ServingError, match=f"RESOURCE_EXHAUSTED: a response of .* {size}$"):
        ask(server.address, *asked, max_message_bytes=size)
