"""Exports of a class-conditional model, and what servers and clients make of its classes."""

import asyncio
import base64
import json

import grpc
import numpy as np
import PIL.Image
import pytest
import requests
import tensorflow as tf

from igpt_keras.errors import InputError
from igpt_keras.pictures.completions import SHEET_FILE
from igpt_keras.sampling.gumbel import gumbel_noise
from igpt_keras.sampling.requests import class_numbers, completion_seeds
from igpt_keras.sampling.samplers import Categorical
from serving import Server, export
from serving.client import AsyncClient, Client, ServingError
from serving.client.classes import Condition, make_condition
from serving.client.images import encoded_images
from serving.description import Description
from serving.row_functions import BEGIN, DECODE_ROW, VIEW
from serving.server import row_streams
from serving.server.errors import RequestError
from serving.server.operations import check_operations
from serving.server.rest.events import rows_request
from tests.serving.test_export import TF1Model, completion_inputs, encode, single_seed
from tests.serving.test_export import random_images as images_of

SIZE = 4
NAMES = ["cat", "dog", "écureuil"]
IMAGES = images_of(3, seed=8)


def test_classes_are_found_by_name_and_by_number():
    assert class_numbers(["dog", 0, "1", np.int64(2)], NAMES) == [1, 0, 1, 2]
    # A name goes before a number.
    assert class_numbers(["0", 0], ["1", "0"]) == [1, 0]
    for label in ("bird", "3", 3, -1):
        with pytest.raises(InputError, match=f"cat, dog, .*or numbers in 0…2; got {label}"):
            class_numbers([label], NAMES)


class Carrier:
    """Knows the signatures of a model, and the names of its classes."""

    def __init__(self, *inputs):
        self.inputs = list(inputs)

    def signatures(self):
        yield "metadata"
        return {"complete": self.inputs, "sample": []}

    def predict(self, signature_name, inputs, outputs):
        assert (signature_name, outputs) == ("class_labels", ["classes"])
        assert inputs["class_names"].tolist() == [b""]
        yield "names"
        return {"classes": np.array([[name.encode() for name in NAMES]], object)}


def inputs_of(condition, carrier, count=2, signature_name="complete"):
    exchange, asked = condition.inputs(carrier, signature_name, count), []
    while True:
        try:
            asked.append(exchange.send(None))
        except StopIteration as stop:
            return {name: values.tolist() for name, values in stop.value.items()}, asked


def test_a_client_sends_what_the_model_takes():
    takes = Carrier("image_bytes", "labels", "guidance_scale")
    inputs, asked = inputs_of(make_condition(["écureuil", 0], 2.5, 2), takes)
    assert inputs == {"labels": [2, 0], "guidance_scale": [2.5, 2.5]}
    assert asked == ["metadata", "names"]
    inputs, asked = inputs_of(make_condition(1, 1, 1, num_completions=2), takes)
    assert (inputs, asked) == ({"labels": [1, 1], "guidance_scale": [1, 1]}, ["metadata"])
    assert inputs_of(Condition(), takes)[0] == {"labels": [-1, -1], "guidance_scale": [1, 1]}
    assert inputs_of(make_condition("dog", 1, 1), Carrier("labels"), 1)[0] == {"labels": [1]}
    without = Carrier("image_bytes", "keep_rows")
    assert inputs_of(Condition(), without)[0] == {}
    with pytest.raises(InputError, match=r"labels needs a class-conditional model.*labels=\[1\]"):
        inputs_of(make_condition(1, 1, 1), without)
    with pytest.raises(InputError, match="labels must be names of classes, cat, dog,.*got bird"):
        inputs_of(make_condition("bird", 1, 1), takes)
    # The request for it will say so.
    assert inputs_of(make_condition(1, 1, 1), without, signature_name="paint")[0] == {}


@pytest.mark.parametrize(
    ("labels", "guidance_scale", "message"),
    [
        ([1, 2, 0], 1, "one for each of 2 images, got .1, 2, 0"),
        ([1, 1.5], 1, "labels must be the number or name of a class"),
        (-1, 1, "labels must be the number or name of a class"),
        ([1, True], 1, "labels must be the number or name of a class"),
        (None, 2, "guidance_scale=2 needs labels"),
        (1, -1, "guidance_scale must be a finite number >= 0, got -1"),
        (1, float("nan"), "guidance_scale must be a finite number"),
        (1, 1e300, "guidance_scale must be a finite number"),
    ],
)
def test_what_no_server_takes_is_told_at_once(labels, guidance_scale, message):
    with pytest.raises(InputError, match=message):
        make_condition(labels, guidance_scale, 2)
    with Client("localhost:1") as client, pytest.raises(InputError, match=message):
        client.sample(2, labels=labels, guidance_scale=guidance_scale)


def test_a_stream_is_asked_for_by_name_or_number():
    def read(**members):
        request = rows_request(json.dumps({"image": None, **members}).encode())
        return request.labels, request.guidance_scale

    assert read() == (None, 1)
    assert read(labels=None, guidance_scale=1) == (None, 1)
    assert read(labels="écureuil", guidance_scale=2) == ("écureuil", 2)
    assert read(labels=2) == (2, 1)
    for labels in (True, 1.0, [1], {"b64": ""}):
        with pytest.raises(RequestError, match="labels must be the number or the name of a class"):
            read(labels=labels)
    for scale in ("2", True, -0.5, None, 1e39):
        with pytest.raises(RequestError, match="guidance_scale must be a finite number >= 0"):
            read(labels=1, guidance_scale=scale)
    nan = b'{"image": null, "labels": 1, "guidance_scale": NaN}'
    with pytest.raises(RequestError, match="guidance_scale must be a finite number >= 0"):
        rows_request(nan)


def test_a_model_without_classes_refuses_labels(server):
    body = {"image": None, "labels": 1}
    answer = requests.post(f"{server.rest_address}/v1/models/igpt:stream", json=body, timeout=30)
    assert answer.status_code == 400
    assert answer.json() == {"error": "labels needs a class-conditional model, got 1"}
    with Client(server.address) as client:
        for ask in (client.sample, lambda *_, labels: client.score(IMAGES, labels)):
            with pytest.raises(InputError, match="labels needs a class-conditional model"):
                ask(1, labels=1)


@pytest.fixture(scope="module")
def tf1_model(exported_conditional):
    return TF1Model(exported_conditional / "1")


@pytest.fixture(scope="module")
def site(exported_conditional):
    with Server(exported_conditional, rest_port=0) as server:
        yield server


def asked(images, labels, scales, **settings):
    condition = {"labels": np.int32(labels), "guidance_scale": np.float32(scales)}
    return {**completion_inputs(images, **settings), **condition}


@pytest.mark.slow
def test_tokens_are_drawn_from_two_passes_combined(tf1_model, conditional):
    images = images_of(4, seed=3)
    labels, scales = np.array([2, 0, -1, 1]), np.array([2.5, 0.5, 1, 1])
    seeds = np.arange(4) + 5
    outputs = tf1_model.run(
        "complete", **asked(images, labels, scales, keep_rows=1, seed=seeds, temperature=0.8)
    )
    tokens = outputs["tokens"]
    of_none = np.array(conditional(tokens))
    of_class = np.array(conditional({"tokens": tokens, "labels": np.maximum(labels, 0)}))
    of_class[labels < 0] = of_none[labels < 0]
    logits = of_none + scales[:, None, None] * (of_class - of_none)
    noise = gumbel_noise(tf.constant(seeds), 0, SIZE, SIZE, 8).numpy().transpose(1, 0, 2)
    expected = (logits / 0.8 + noise).argmax(axis=-1)
    np.testing.assert_array_equal(tokens[:, SIZE:], expected[:, SIZE:])
    given = conditional.tokenizer.tokenize(images)
    np.testing.assert_array_equal(tokens[:, :SIZE], given[:, :SIZE])
    log_probs = of_class - np.log(np.exp(of_class).sum(axis=-1, keepdims=True))
    drawn = np.take_along_axis(log_probs, tokens[..., None], axis=-1)[:, SIZE:, 0]
    np.testing.assert_allclose(outputs["log_likelihood"], drawn.sum(axis=1), rtol=1e-4)


@pytest.mark.slow
def test_completions_samples_and_scores_equal_those_in_process(tf1_model, conditional):
    labels = np.array([1, 2, 0])
    seeds = [single_seed(seed) for seed in (5, 6, 7)]
    outputs = tf1_model.run("complete", **asked(IMAGES, labels, [3] * 3, keep_rows=2, seed=seeds))
    settings = {"labels": labels, "guidance_scale": 3.0, "seed": 5}
    expected = conditional.generate(IMAGES, keep_rows=2, **settings)
    np.testing.assert_array_equal(outputs["tokens"], expected.tokens[:, 0])
    np.testing.assert_array_equal(outputs["pixels"], expected.images[:, 0])
    drawing = asked(IMAGES, labels, [3] * 3, seed=seeds)
    del drawing["image_bytes"], drawing["keep_rows"]
    expected = conditional.sample(3, **settings)
    outputs = tf1_model.run("sample", **drawing)
    np.testing.assert_array_equal(outputs["tokens"], expected.tokens[:, 0])
    contents = [encode(image) for image in IMAGES]
    for label in (-1, 0, 2):
        outputs = tf1_model.run("score", image_bytes=contents, labels=[label] * 3)
        scores = conditional.score(IMAGES, None if label < 0 else label)
        np.testing.assert_allclose(outputs["log_likelihood"], scores, rtol=1e-5)


@pytest.mark.slow
def test_images_are_classified_by_their_likelihoods(tf1_model, conditional):
    contents = [encode(image) for image in IMAGES]
    outputs = tf1_model.run("classify_images", image_bytes=contents)
    logits = conditional.class_log_likelihood(IMAGES)
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-5)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(outputs["scores"], expected, rtol=1e-4, atol=1e-6)
    assert [name.decode() for name in outputs["classes"][2]] == NAMES
    found = tf1_model.run("class_labels", class_names=["écureuil".encode(), b"", b"cat"])
    assert found["labels"].tolist() == [2, -1, 0]
    assert [name.decode() for name in found["classes"][1]] == NAMES
    assert tf1_model.run("class_labels", class_names=[])["classes"].shape == (0, 3)
    assert tf1_model.run("classify_images", image_bytes=[])["scores"].shape == (0, 3)
    empty = asked(IMAGES[:0], [], [], seed=0)
    assert tf1_model.run("complete", **empty)["tokens"].shape == (0, SIZE**2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "scales", "message"),
    [
        ([0, 3], [1, 1], r"labels must lie in -1…2 \(-1 for no class\)"),
        ([0, -2], [1, 1], "labels must lie in -1…2"),
        ([0, 1], [1, -1], "guidance_scale must be finite and >= 0"),
        ([0, 1], [1, np.nan], "guidance_scale must be finite and >= 0"),
        ([0, 1], [1, np.inf], "guidance_scale must be finite and >= 0"),
        ([0, -1], [1, 2], r"guidance_scale must be 1 where labels is -1 \(no class\)"),
        ([0, 1], [1], "inputs must have one batch size"),
    ],
)
def test_the_graph_refuses_what_no_class_can_be(tf1_model, labels, scales, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        tf1_model.run("complete", **asked(IMAGES[:2], labels, scales, seed=0, keep_rows=SIZE))


@pytest.mark.slow
def test_the_folder_says_what_the_classes_are(exported_conditional):
    assert check_operations(exported_conditional) == [1]
    assets = exported_conditional / "1" / "assets"
    assert (assets / "labels.txt").read_text("utf-8").splitlines() == NAMES
    described = Description.read(assets / "igpt.json")
    assert described.class_names == described.label_names == tuple(NAMES)
    assert "conditioned on 3 classes" in described.description
    card = (assets / "MODEL_CARD.md").read_text("utf-8")
    assert "| class_labels | the numbers of the classes to sample, by their names |" in card
    assert "| classes | 3 |" in card


@pytest.mark.slow
def test_a_classifier_that_comes_along_says_what_an_image_is(conditional, classifier, tmp_path):
    export([conditional, classifier], tmp_path)
    model = TF1Model(tmp_path / "1")
    outputs = model.run("classify_images", image_bytes=[encode(image) for image in IMAGES])
    assert [name.decode() for name in outputs["classes"][0]] == classifier.class_names
    assert "labels" in model.signatures["complete"].inputs
    described = Description.read(tmp_path / "1" / "assets" / "igpt.json")
    assert described.class_names == tuple(classifier.class_names)
    assert described.label_names == tuple(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["address", "rest_address"])
def test_clients_get_what_the_model_gives(site, conditional, protocol):
    with Client(getattr(site, protocol), batch_size=4) as client:
        for labels, number in ((["dog", 2, "0"], [1, 2, 0]), ("écureuil", 2), (1, 1)):
            settings = {"guidance_scale": 2.5, "seed": 3, "sampler": Categorical(0.9)}
            served = client.complete(
                IMAGES, keep_rows=1, num_completions=2, labels=labels, **settings
            )
            expected = conditional.generate(
                IMAGES, keep_rows=1, num_completions=2, labels=number, **settings
            )
            np.testing.assert_array_equal(served.tokens, expected.tokens)
            np.testing.assert_array_equal(
                client.sample(3, labels=labels, **settings).tokens,
                conditional.sample(3, labels=number, **settings).tokens,
            )
            scores = client.score(IMAGES, labels).log_likelihood
            np.testing.assert_allclose(scores, conditional.score(IMAGES, number), rtol=1e-5)
        # Of any class.
        np.testing.assert_array_equal(
            client.sample(2, seed=4).tokens, conditional.sample(2, seed=4).tokens
        )
        np.testing.assert_allclose(
            client.score(IMAGES).log_likelihood, conditional.score(IMAGES), rtol=1e-5
        )
        classes = client.classify(IMAGES)
        logits = conditional.class_log_likelihood(IMAGES)
        np.testing.assert_allclose(classes.logits, logits, rtol=1e-5)
        assert classes.best == [NAMES[index] for index in logits.argmax(axis=1)]
        with pytest.raises(InputError, match="labels must be names of classes.*got bird"):
            client.complete(IMAGES, keep_rows=1, labels="bird")
        with pytest.raises(ServingError, match="labels must lie in -1…2") as caught:
            client.complete(IMAGES, keep_rows=1, labels=3)
        assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT

    async def ask():
        async with AsyncClient(getattr(site, protocol)) as client:
            return await client.sample(2, labels=["cat", "dog"], seed=1)

    expected = conditional.sample(2, labels=[0, 1], seed=1)
    np.testing.assert_array_equal(asyncio.run(ask()).tokens, expected.tokens)


@pytest.mark.slow
def test_rows_come_of_a_class(site, conditional):
    with Client(site.rest_address) as client:
        for labels, number, scale in ((None, None, 1.0), ("dog", 1, 1.0), (2, 2, 3.0)):
            settings = {"keep_rows": 1, "num_completions": 2, "guidance_scale": scale, "seed": 6}
            *_, last = client.complete_rows(IMAGES[0], labels=labels, **settings)
            expected = conditional.generate(IMAGES[:1], labels=number, **{**settings, "seed": [6]})
            np.testing.assert_array_equal(last.images, expected.images[0])
            np.testing.assert_allclose(
                last.log_likelihood, expected.log_likelihood[0], rtol=1e-4, atol=1e-4
            )
        with pytest.raises(ServingError, match="labels must be names of classes.*got bird"):
            list(client.complete_rows(IMAGES[0], keep_rows=1, labels="bird"))
    body = {"image": None, "guidance_scale": 2}
    answer = requests.post(f"{site.rest_address}/v1/models/igpt:stream", json=body, timeout=30)
    assert answer.json()["error"].startswith("guidance_scale=2 needs labels")
    (entry,) = requests.get(f"{site.rest_address}/v1/models", timeout=30).json()["models"]
    assert entry["label_names"] == entry["class_names"] == NAMES
    # A request in JSON, as any program sends it.
    content = base64.b64encode(encoded_images(IMAGES)[0]).decode()
    instance = {"image_bytes": {"b64": content}, "keep_rows": 1, "temperature": 1, "top_k": 0}
    instance |= {"top_p": 1, "seed": int(completion_seeds([6], 1, 1)[0, 0])}
    instance |= {"labels": 2, "guidance_scale": 3}
    body = {"signature_name": "complete", "instances": [instance]}
    answer = requests.post(f"{site.rest_address}/v1/models/igpt:predict", json=body, timeout=30)
    assert answer.json()["predictions"][0]["tokens"] == expected.tokens[0, 0].tolist()


@pytest.mark.slow
def test_guidance_takes_memory_of_a_second_sequence(exported_conditional):
    rows = tf.saved_model.load(str(exported_conditional / "1")).rows
    functions = {name: getattr(rows, name) for name in (VIEW, BEGIN, DECODE_ROW)}
    budget = row_streams.StateBudget()
    streams = row_streams.RowStreams(functions, budget, NAMES)
    held = {}
    for scale in (1.0, 2.0):
        request = row_streams.RowsRequest(None, num_completions=3, labels=1, guidance_scale=scale)
        events = streams.run(request, row_streams.Call())
        next(events)
        held[scale] = budget.in_flight
        events.close()
    # Keys and values of 2 layers, 16 positions and width 16, in float32.
    caches = 3 * 2 * 2 * 16 * 16 * 4
    assert held[2.0] - held[1.0] == caches + 3 * 4
    assert held[1.0] > caches


@pytest.mark.slow
def test_the_command_line_asks_for_classes_in_turn(site, conditional, igpt, tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, image in zip(paths, IMAGES, strict=True):
        PIL.Image.fromarray(image).save(path)
    where = ("--server", site.address)
    options = ("--label", "dog", "--label", "0", "--guidance-scale", 2, "--seed", 1)
    settings = {"labels": [1, 0, 1], "guidance_scale": 2.0, "seed": 1}
    output = tmp_path / "completed"
    command = ("client", "complete", *paths, *where, "--keep-rows", 1, "--num-completions", 1)
    status, _, errors = igpt(*command, *options, "--output", output)
    assert status == 0, errors
    expected = conditional.generate(IMAGES, keep_rows=1, **settings).images[:, 0]
    np.testing.assert_array_equal(written(output), expected)
    output = tmp_path / "sampled"
    status, _, errors = igpt(
        "client", "sample", *where, "--num-samples", 3, *options, "--output", output
    )
    assert status == 0, errors
    np.testing.assert_array_equal(written(output), conditional.sample(3, **settings).images[:, 0])
    status, printed, errors = igpt("client", "score", *paths, *where, *options[:4])
    assert status == 0, errors
    scores = [float(line.split("\t")[1]) for line in printed.splitlines()]
    np.testing.assert_allclose(scores, conditional.score(IMAGES, [1, 0, 1]), atol=1e-3)
    status, _, errors = igpt("client", "score", *paths, *where, "--label", "bird")
    assert status == 2
    assert "labels must be names of classes, cat, dog, écureuil" in errors


def written(folder):
    """The images in a folder, without the contact sheet."""
    paths = sorted(path for path in folder.glob("*.png") if path.name != SHEET_FILE)
    return np.stack([np.asarray(PIL.Image.open(path)) for path in paths])
